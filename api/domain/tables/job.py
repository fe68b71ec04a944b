import enum
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import BigInteger, Enum, ForeignKey, Identity, Index, UniqueConstraint, false, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7

from api.domain.tables.table import Table

if TYPE_CHECKING:
    from api.domain.tables.concept import Concept


class JobState(enum.StrEnum):
    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def is_final(self) -> bool:
        """Return whether the job has ended. Its owner may still retry it."""
        return self in FINAL_STATES


FINAL_STATES = (JobState.succeeded, JobState.failed, JobState.cancelled)


class Job(Table):
    """One training of one concept. Every write by a worker checks the fence of its claim (`api.domain.jobs`)."""

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("concept_id", "version"),
        Index("ix_job_owner_id_id", "owner_id", "id"),
        Index("ix_job_open", "state", "id", postgresql_where=text("state IN ('queued', 'running')")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"))
    concept_id: Mapped[UUID] = mapped_column(ForeignKey("concept.id"))
    version: Mapped[int]
    """The version of the concept that this job trains, from 1."""
    method: Mapped[str] = mapped_column(default="opad", server_default="opad")
    preset: Mapped[str]
    """The preset of OPAD; "default" for other methods."""
    overrides: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Settings of the method that differ from the preset, for instance a shorter demo run."""
    seed: Mapped[int] = mapped_column(BigInteger)
    keep_teacher: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether the teacher, too, is stored at the end, as an export."""

    state: Mapped[JobState] = mapped_column(Enum(JobState, native_enum=False, length=16), default=JobState.queued)
    attempt: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    run_after: Mapped[datetime] = mapped_column(server_default=func.now())
    cancel_requested_at: Mapped[datetime | None]

    stage: Mapped[str | None]
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    eta_seconds: Mapped[float | None]
    eta_source: Mapped[str | None]
    """measured, history or estimate."""
    losses: Mapped[dict[str, float]] = mapped_column(default=dict)
    iterations: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    """Step and losses of each iteration between the last two heartbeats with progress. The trigger copies them into the
    event of the progress."""
    preview_key: Mapped[str | None]

    error_code: Mapped[str | None]
    """oom, bad_image, invalid, lost_worker, storage, diverged or internal."""
    error_detail: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    concept: Mapped["Concept"] = relationship(back_populates="jobs", lazy="raise")


class JobEvent(Table):
    """An event of a job, for clients that watch it. A trigger adds a row with each change (migration 0004)."""

    __tablename__ = "job_event"
    __table_args__ = (Index("ix_job_event_job_id_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    """Rises with each change of one job, because a change locks the job's row until its commit."""
    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id"))
    kind: Mapped[str]
    """state, progress, preview or log."""
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Attempt(Table):
    __tablename__ = "attempt"
    __table_args__ = (UniqueConstraint("job_id", "fence"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id"))
    fence: Mapped[int] = mapped_column(BigInteger)
    worker: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    cause: Mapped[str | None]
    detail: Mapped[str | None]
    timing: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """The times of a whole training (`api.domain.training_times.timing`)."""
    wall_time: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Seconds of each part of the attempt so far (`api.domain.wall_time`)."""


class ErasedTraining(Table):
    """The training times of an erased concept, so that the day's minutes stay used."""

    __tablename__ = "erased_training"
    __table_args__ = (Index("ix_erased_training_owner_id_ended_at", "owner_id", "ended_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]


class Checkpoint(Table):
    """A committed checkpoint. The row is inserted under the fence after the object was written and hashed."""

    __tablename__ = "checkpoint"
    __table_args__ = (UniqueConstraint("job_id", "fence", "step"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id"))
    fence: Mapped[int] = mapped_column(BigInteger)
    step: Mapped[int]
    key: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
