import hashlib
import json
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from api.domain.tables.table import Table


class AuditEvent(Table):
    """The database refuses to change or delete a row; no foreign keys, for the row outlives what it tells of."""

    __tablename__ = "audit_event"
    __table_args__ = (
        Index("ix_audit_event_owner_id_number", "owner_id", "number"),
        Index("ix_audit_event_object_id_number", "object_id", "number"),
    )

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """From 1, without gaps."""
    at: Mapped[datetime]
    owner_id: Mapped[UUID | None]
    """Whose thing it is that something was done to; None for a stranger's sign-in and for the whole installation."""
    api_key_id: Mapped[UUID | None]
    """Who did it; None for a command on the server."""
    action: Mapped[str]
    """`<thing>.<verb>`, for instance concept.create."""
    object_id: Mapped[UUID | None]
    outcome: Mapped[str]
    request_id: Mapped[str | None]
    hash: Mapped[bytes]

    def seal(self, before: bytes) -> bytes:
        """SHA-256 over the hash of the row before and every column of this one."""
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
