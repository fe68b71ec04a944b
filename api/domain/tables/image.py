from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from api.domain.tables.table import Table


class Image(Table):
    """A stored generated image, with the settings that generate it again."""

    __tablename__ = "image"
    __table_args__ = (
        Index("ix_image_concept_id_id", "concept_id", "id"),
        Index("ix_image_owner_id_id", "owner_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"))
    concept_id: Mapped[UUID] = mapped_column(ForeignKey("concept.id"))
    version: Mapped[int | None]
    """The concept's version; None for an image of the untouched base."""
    prompt: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str]
    """png, jpeg or webp."""
    decoder: Mapped[str] = mapped_column(server_default="full")
    """full or fast."""
    check_score: Mapped[float | None]
    """The score of the image check, 0 to 1; None if it was off."""
    key: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class PreferenceVote(Table):
    """A blind vote between two images of the same prompt and seed."""

    __tablename__ = "preference_vote"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    concept_id: Mapped[UUID] = mapped_column(ForeignKey("concept.id"), index=True)
    first_version: Mapped[int]
    second_version: Mapped[int]
    """Versions of the concept, the smaller one first; 0 is the untouched student."""
    chosen: Mapped[str]
    """first, second or neither."""
    prompt: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
