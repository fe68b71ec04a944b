from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from api.domain.tables.table import Table


class Study(Table):
    """Groups of images, one of each method, of which people choose the best without knowing the methods."""

    __tablename__ = "study"
    __table_args__ = (UniqueConstraint("owner_id", "source_sha256"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"))
    title: Mapped[str]
    methods: Mapped[list[dict[str, str]]] = mapped_column(JSONB())
    """Name and label of each method, in the order of the folder."""
    source_sha256: Mapped[str]
    """Hash of the imported files."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class StudyGroup(Table):
    """A concept and a prompt. `position` is its place in the folder; each voter has an order of their own."""

    __tablename__ = "study_group"
    __table_args__ = (UniqueConstraint("study_id", "position"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"))
    position: Mapped[int]
    concept: Mapped[str]
    class_noun: Mapped[str]
    prompt: Mapped[str]


class StudyImage(Table):
    """An image of a method in a group, or a reference of a concept. The random id says nothing about the method."""

    __tablename__ = "study_image"
    __table_args__ = (
        UniqueConstraint("group_id", "method"),
        CheckConstraint("(group_id IS NULL) = (method IS NULL)", "method_of_a_group"),
        Index("ix_study_image_study_id_concept", "study_id", "concept"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"))
    concept: Mapped[str]
    position: Mapped[int]
    """Place among the references of the concept, or among the methods."""
    group_id: Mapped[UUID | None] = mapped_column(ForeignKey("study_group.id"))
    method: Mapped[str | None]
    """None for a reference, as `group_id`."""
    key: Mapped[str]
    sha256: Mapped[str]


class StudyVote(Table):
    """The image that a person chose of a group."""

    __tablename__ = "study_vote"
    __table_args__ = (UniqueConstraint("group_id", "voter"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    group_id: Mapped[UUID] = mapped_column(ForeignKey("study_group.id"))
    image_id: Mapped[UUID] = mapped_column(ForeignKey("study_image.id"), index=True)
    voter: Mapped[str]
    """The name that the person typed."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
