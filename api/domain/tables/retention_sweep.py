from datetime import date, datetime
from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from api.domain.tables.table import Table


class RetentionSweep(Table):
    """The sweep of a day, by the first reconciler that starts it."""

    __tablename__ = "retention_sweep"

    day: Mapped[date] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    removed: Mapped[dict[str, Any] | None]
