"""Sign images with Content Credentials (C2PA): who generated them, with what, and whether they were altered since."""

import io
import json
from pathlib import Path
from typing import Any

from c2pa import Builder, C2paError, C2paSignerInfo, Context, Signer

from api.domain.credentials import read_credentials
from api.domain.provenance import ORIGIN_ASSERTION, Provenance
from opad_core import AI_GENERATED

_SETTINGS = {
    "verify": {"verify_after_sign": False},  # halves the time
    "builder": {"thumbnail": {"enabled": False}},
}


class ImageSigner:
    """Signs files with one key. May be used by several threads."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises ValueError, which says in one sentence why these files cannot sign."""
        algorithm, chain, pem = read_credentials(certificate, key)
        try:
            signer = Signer.from_info(C2paSignerInfo(algorithm, chain, pem, None))
            self._context = Context.from_dict(_SETTINGS, signer=signer)
        except C2paError as error:
            raise ValueError(f"{certificate} cannot sign images: {error}") from error

    def sign(self, file: bytes, media_type: str, provenance: Provenance) -> bytes:
        """Return the file with a signed manifest. Every call makes another file: the manifest has an id of its own."""
        signed = io.BytesIO()
        with Builder.from_json(json.dumps(manifest(provenance)), self._context) as builder:
            builder.sign(media_type, io.BytesIO(file), signed)
        return signed.getvalue()


def manifest(provenance: Provenance) -> dict[str, Any]:
    created = {"action": "c2pa.created", "digitalSourceType": AI_GENERATED, "softwareAgent": {"name": "OPAD"}}
    return {
        "claim_generator_info": [{"name": "OPAD"}],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": ORIGIN_ASSERTION, "data": provenance.fields()},
        ],
    }
