from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from api.domain.tables.table import Table


class GenerateHistogram(Table):
    """How many requests for pictures took how long; counted by each api process, written every few seconds."""

    __tablename__ = "generate_histogram"

    slot: Mapped[datetime] = mapped_column(primary_key=True)
    """Begin of five minutes."""
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"), primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    """ok, or the code of the refusal."""
    bucket: Mapped[int] = mapped_column(primary_key=True)
    """Of the time it took (`api.latency_histogram`)."""
    count: Mapped[int] = mapped_column(BigInteger)
