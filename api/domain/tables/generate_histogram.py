from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from api.domain.tables.table import Table


class GenerateHistogram(Table):
    """Counts of generate requests by duration. Each api process adds its own every few seconds."""

    __tablename__ = "generate_histogram"

    slot: Mapped[datetime] = mapped_column(primary_key=True)
    """The start of a slot of five minutes."""
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"), primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    """ok, or the error code."""
    bucket: Mapped[int] = mapped_column(primary_key=True)
    """The bucket of the duration (`api.latency_histogram`)."""
    count: Mapped[int] = mapped_column(BigInteger)
