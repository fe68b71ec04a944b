from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from api.domain.tables.table import Table


class Bundle(Table):
    """The trained artifact of a job. UNIQUE(job_id) makes a second result of the job impossible."""

    __tablename__ = "bundle"
    __table_args__ = (Index("ix_bundle_concept_id_version", "concept_id", "version"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id"), unique=True)
    concept_id: Mapped[UUID] = mapped_column(ForeignKey("concept.id"))
    version: Mapped[int]
    key: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    base_sha256: Mapped[str | None]
    """Hash of the base's manifest; None for a bundle that is older than this column."""
    report: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """`opad_core.evaluation.report.ReportCard.figures` with the hashes of its images; None if it was not evaluated."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Export(Table):
    """Another file of a version: its student for another tool, or its teacher. Written with the bundle's row."""

    __tablename__ = "export"
    __table_args__ = (UniqueConstraint("bundle_id", "layout"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    bundle_id: Mapped[UUID] = mapped_column(ForeignKey("bundle.id"))
    layout: Mapped[str]
    """diffusers, kohya, textual_inversion or teacher."""
    key: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    relative_error: Mapped[float | None]
    """The share of the trained weights that the LoRA's rank loses; None if nothing is approximated."""
