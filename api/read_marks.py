"""Read the marks of one image from stdin: what its Content Credentials and its XMP say of its origin.

`api.decoder` starts this process, for the reasons and with the limits of `api.decode`. Nothing is fetched: neither
credentials that a file only links to, nor the state of a certificate.
"""

import io
import json
import re
import sys
from typing import Any

from c2pa import C2paError, Context, Reader
from cryptography import x509

from api.decode import begin
from api.domain.provenance import ORIGIN_ASSERTION
from opad_core.marked_images import AI_GENERATED, PARTLY_AI_GENERATED
from opad_core.reference_images import Refused, decode, kind_of

_MAX_TEXT = 200
"""Longest text of a file that an answer repeats."""
_MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "HEIC": "image/heic"}
_ALTERED = {"assertion.dataHash.mismatch", "assertion.bmffHash.mismatch", "assertion.hashedURI.mismatch"}
_GENERATED_TYPES = (AI_GENERATED, PARTLY_AI_GENERATED)
_XMP_SOURCE = re.compile(rb'DigitalSourceType(?:="|>)[^"<]{0,100}?(composite[wW]ith)?[tT]rainedAlgorithmicMedia')
_XMP_FIELD = re.compile(rb'\bopad:(model|concept|bundle|seed|decoder)="([^"<]{1,200})"')


def main(argument: str) -> None:
    """Read standard input. `argument` is JSON: `trusted`, certificates as PEM, and `heic`."""
    options = json.loads(argument)
    begin(heic=options["heic"])
    answer: dict[str, Any]
    data = sys.stdin.buffer.read()
    try:
        decode(data, heic=options["heic"] and "pillow_heif" in sys.modules)
        answer = {"ok": True, **read_marks(data, trusted=options["trusted"])}
    except Refused as refusal:
        answer = {"ok": False, "kind": refusal.kind, "message": str(refusal)}
        if refusal.kind == "damaged" and kind_of(data[:256]) in _MEDIA_TYPES:
            marks = read_marks(data, trusted=options["trusted"])
            if marks["credentials"] == "altered":  # by what damaged it
                answer = {"ok": True, **marks}
    sys.stdout.buffer.write(json.dumps(answer).encode())


def read_marks(data: bytes, *, trusted: str) -> dict[str, Any]:
    """Return what the marks of a decodable image say. All texts are the file's own and may be false.

    `credentials`: `none`, `valid`, `altered` (signed, and the image was changed since) or `invalid`. `ours`: a
    certificate in `trusted` signed them. `signer`: the certificate's organization. `generated`: marks say that a model
    generated the image or, if `partly`, parts of it. `xmp`: its XMP says so. `origin`: our own fields, from valid
    credentials or else from XMP.
    """
    source = _XMP_SOURCE.search(data)
    xmp = source is not None
    found: dict[str, Any] = {"credentials": "none", "ours": False, "signer": None, "xmp": xmp, "generated": xmp}
    found["partly"] = source is not None and source[1] is not None
    claimed = {name.decode(): value.decode(errors="replace") for name, value in _XMP_FIELD.findall(data)}
    found["origin"] = _origin(claimed) if xmp else {}
    try:
        reader = Reader.try_create(_MEDIA_TYPES[kind_of(data[:256])], io.BytesIO(data), context=_context(trusted))
        if reader is None:
            return found
        with reader:
            manifest = reader.get_active_manifest() or {}
            state, results = reader.get_validation_state(), reader.get_validation_results() or {}
    except (C2paError, KeyError):  # KeyError: the library leaves out a manifest that it cannot decode
        return found | {"credentials": "invalid"}
    failures = {failure.get("code") for failure in (results.get("activeManifest") or {}).get("failure", [])}
    found["signer"] = _text((manifest.get("signature_info") or {}).get("issuer"))
    if state not in ("Valid", "Trusted"):
        return found | {"credentials": "altered" if failures & _ALTERED else "invalid"}
    assertions = {each.get("label"): each.get("data") for each in manifest.get("assertions", [])}
    actions = [data for label, data in assertions.items() if str(label).startswith("c2pa.actions")]
    sources = [action.get("digitalSourceType") for data in actions for action in data.get("actions", [])]
    generated = any(source in _GENERATED_TYPES for source in sources)
    serial = (manifest.get("signature_info") or {}).get("cert_serial_number")
    ours = state == "Trusted" and serial in _serial_numbers(trusted)
    found |= {"credentials": "valid", "ours": ours, "generated": xmp or generated}
    if generated:
        found["partly"] = AI_GENERATED not in sources
    if isinstance(origin := assertions.get(ORIGIN_ASSERTION), dict):
        found["origin"] = _origin(origin)
    return found


def _context(trusted: str) -> Context:
    return Context.from_dict({
        "verify": {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
        "trust": {"trust_anchors": trusted} if trusted else {},
    })  # fmt: skip


def _serial_numbers(certificates: str) -> set[str]:
    """Return the serial numbers: an issuer gives each one once, and it may have other customers than us."""
    return {str(each.serial_number) for each in x509.load_pem_x509_certificates(certificates.encode())}


def _origin(fields: dict[str, Any]) -> dict[str, str]:
    names = ("model", "concept", "bundle", "seed", "decoder")
    return {name: text for name in names if (text := _text(fields.get(name))) is not None}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:_MAX_TEXT]
