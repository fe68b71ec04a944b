from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import ForeignKey, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7

from api.domain.tables.table import Table

if TYPE_CHECKING:
    from api.domain.tables.bundle import Bundle
    from api.domain.tables.job import Job


class Concept(Table):
    __tablename__ = "concept"
    __table_args__ = (UniqueConstraint("owner_id", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"))
    name: Mapped[str]
    class_noun: Mapped[str]
    base: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    references: Mapped[list["Reference"]] = relationship(order_by="Reference.position", lazy="raise")
    jobs: Mapped[list["Job"]] = relationship(order_by="Job.version", back_populates="concept", lazy="raise")
    bundles: Mapped[list["Bundle"]] = relationship(order_by="Bundle.version", lazy="raise")


class Reference(Table):
    """An uploaded image, re-encoded as PNG. `key` contains its hash."""

    __tablename__ = "reference"
    __table_args__ = (UniqueConstraint("concept_id", "position"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    concept_id: Mapped[UUID] = mapped_column(ForeignKey("concept.id"))
    position: Mapped[int]
    key: Mapped[str]
    sha256: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    check_score: Mapped[float | None]
    """The score of the image check, 0 to 1; None if it was off."""
