"""Receipts of generated images, with which a client stores an image that it has seen.

Generating it again would not do: another batch size may round a pixel differently, and the concept may have a newer
version by then. A receipt is signed by the service, so nobody can store a file that it did not generate.
"""

import base64
import hashlib
import hmac
import time
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from uuid_utils.compat import uuid7

from api.domain.errors import Invalid
from api.generate_schemas import GenerateIn
from api.subject import Subject

VALID_SECONDS = 24 * 3600


class ImageReceipt(BaseModel):
    """The row that the image gets, but for its key and size, if it is stored."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    owner_id: UUID
    concept_id: UUID
    version: int | None
    prompt: str
    seed: int
    format: str
    decoder: str = "full"
    """The receipts of an earlier version do not name it."""
    sha256: str
    check_score: float | None
    expires_at: int
    """Seconds since 1970."""


class ReceiptSigner:
    def __init__(self, secret: str, *, valid_seconds: int = VALID_SECONDS) -> None:
        """Take a secret that all api processes of the installation share, and no client knows."""
        self._valid_seconds = valid_seconds
        self._key = hashlib.sha256(f"opad image receipt\n{secret}".encode()).digest()

    def sign(
        self, file: bytes, *, owner_id: UUID, subject: Subject, body: GenerateIn, seed: int, check_score: float | None
    ) -> str:
        """Return the receipt of a generated file, which is in the format of `body`."""
        receipt = ImageReceipt(
            id=uuid7(),
            owner_id=owner_id,
            concept_id=subject.concept_id,
            version=subject.version,
            prompt=body.prompt,
            seed=seed,
            format=body.format,
            decoder=subject.decoder,
            sha256=hashlib.sha256(file).hexdigest(),
            check_score=check_score,
            expires_at=int(time.time()) + self._valid_seconds,
        )
        content = receipt.model_dump_json().encode()
        return base64.urlsafe_b64encode(self._signature(content) + content).decode()

    def read(self, text: str, file: bytes, *, owner_id: UUID) -> ImageReceipt:
        """Return the receipt. Raises Invalid unless it is ours, for this owner and file, and not expired."""
        try:
            signed = base64.urlsafe_b64decode(text)
        except ValueError as error:
            raise _refused("receipt", "is not a receipt of this service") from error
        signature, content = signed[:32], signed[32:]
        if not hmac.compare_digest(signature, self._signature(content)):
            raise _refused("receipt", "is not a receipt of this service")
        receipt = ImageReceipt.model_validate_json(content)
        if receipt.owner_id != owner_id:
            raise _refused("receipt", "is not a receipt of this service")
        if receipt.expires_at < time.time():
            raise _refused("receipt", "is older than a day; generate the image again with `store`")
        if receipt.sha256 != hashlib.sha256(file).hexdigest():
            raise _refused("data", "is not the file that the receipt belongs to")
        return receipt

    def _signature(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")


def _refused(field: str, reason: str) -> Invalid:
    return Invalid(f"`{field}` {reason}", "receipt_refused", errors=[{"field": field, "message": reason}])
