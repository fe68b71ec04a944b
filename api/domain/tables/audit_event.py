import hashlib
import json
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from api.domain.tables.table import Table


class AuditEvent(Table):
    """A row of the audit log. A trigger refuses changes. It has no foreign keys, because it outlives its objects."""

    __tablename__ = "audit_event"
    __table_args__ = (
        Index("ix_audit_event_owner_id_number", "owner_id", "number"),
        Index("ix_audit_event_object_id_number", "object_id", "number"),
    )

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """From 1, without gaps."""
    at: Mapped[datetime]
    owner_id: Mapped[UUID | None]
    """The owner of the object; None for an unknown caller's sign-in and for the whole installation."""
    api_key_id: Mapped[UUID | None]
    """The key that was used; None for a command on the server."""
    action: Mapped[str]
    """`<object>.<verb>`, for instance concept.create."""
    object_id: Mapped[UUID | None]
    outcome: Mapped[str]
    request_id: Mapped[str | None]
    hash: Mapped[bytes]

    def seal(self, before: bytes) -> bytes:
        """Return the SHA-256 of the previous row's hash and every column of this row."""
        columns = [
            self.number,
            self.at.astimezone(UTC).isoformat(timespec="microseconds"),
            self.owner_id and str(self.owner_id),
            self.api_key_id and str(self.api_key_id),
            self.action,
            self.object_id and str(self.object_id),
            self.outcome,
            self.request_id,
        ]
        return hashlib.sha256(before + json.dumps(columns, separators=(",", ":")).encode()).digest()
