"""Content Credentials that the library refuses to write, and that another program could sign."""

import hashlib
import io
import json
from pathlib import Path

from c2pa import Builder, C2paSigningAlg, Signer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from api.domain.credentials import read_credentials
from api.domain.provenance import Provenance
from worker.inference.signing import manifest

_WRITTEN, _FORGED = b"c2pb.actions.x", b"c2pa.actions.x"


def undecodable_actions(file: bytes, certificate: Path, key: Path) -> bytes:
    """Return a JPEG whose signature and hashes are right, and whose list of actions is a text.

    The label of an assertion is changed after signing; then its hash and the signature are computed again.
    """
    _, chain, pem = read_credentials(certificate, key)
    private = load_pem_private_key(pem, password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    asked: list[tuple[bytes, bytes]] = []

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(data, ec.ECDSA(hashes.SHA256())))
        asked.append((data, r.to_bytes(32, "big") + s.to_bytes(32, "big")))
        return asked[-1][1]

    described = manifest(Provenance("nano", None, None, 7))
    described["assertions"].append({"label": _WRITTEN.decode(), "data": {"actions": "none"}})
    signed = io.BytesIO()
    signer = Signer.from_callback(sign, C2paSigningAlg.ES256, chain.decode())
    Builder.from_json(json.dumps(described)).sign(signer, "image/jpeg", io.BytesIO(file), signed)
    content, (data, signature) = signed.getvalue(), asked[-1]

    description = content.index(_WRITTEN + b"\0") - 25  # size, "jumd", id and toggles precede the label
    end = description - 8 + int.from_bytes(content[description - 8 : description - 4], "big")
    box = content[description:end]
    changes = [
        (hashlib.sha256(box).digest(), hashlib.sha256(box.replace(_WRITTEN, _FORGED)).digest()),
        (_WRITTEN, _FORGED),
    ]
    for old, new in changes:
        content, data = content.replace(old, new), data.replace(old, new)
    return content.replace(signature, sign(data))
