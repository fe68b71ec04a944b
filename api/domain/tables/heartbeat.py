from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from api.domain.tables.table import Table

HEARTBEAT_TIMEOUT = timedelta(seconds=45)
"""An engine or trainer host is lost after this time without a heartbeat; it sends one every ten seconds."""


class Heartbeat(Table):
    """The latest heartbeat of an engine or trainer host; the row is deleted when the process shuts down."""

    __tablename__ = "heartbeat"

    name: Mapped[str] = mapped_column(primary_key=True)
    """Stays the same after a restart on the same machine."""
    kind: Mapped[str]
    """engine or trainer."""
    facts: Mapped[dict[str, Any]]
    """Base, device, and memory and disk in bytes (`worker.heartbeat`)."""
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
