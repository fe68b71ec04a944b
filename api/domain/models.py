"""The tables. PostgreSQL is the truth: what is not in a row here has not happened."""

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy reads a plain class attribute
        datetime: DateTime(timezone=True),
        str: Text(),
        dict[str, Any]: JSONB(),
        dict[str, float]: JSONB(),
        list[str]: ARRAY(Text()),
        bytes: LargeBinary(),
    }


class JobState(enum.StrEnum):
    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended; a retry of its owner's may begin it again."""
        return self in FINAL_STATES


FINAL_STATES = (JobState.succeeded, JobState.failed, JobState.cancelled)


class ServedBase(Table):
    """What the engines and trainers of this installation can do; announced by each engine at its start."""

    __tablename__ = "base"

    name: Mapped[str] = mapped_column(primary_key=True)
    resolution: Mapped[int]
    nouns: Mapped[list[str] | None]
    """Class nouns the base knows; None when it knows any."""
    words: Mapped[list[str] | None]
    presets: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Every field of each preset as it is on this base; None until an engine has told."""
    manifest_sha256: Mapped[str]
    announced_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Presence(Table):
    """An engine or trainer host that tells, every few seconds, that it lives; the row goes when it stops in order."""

    __tablename__ = "presence"

    name: Mapped[str] = mapped_column(primary_key=True)
    """The same after a restart on the same machine."""
    kind: Mapped[str]
    """engine or trainer."""
    facts: Mapped[dict[str, Any]]
    """Device, memory and disk, in bytes (`worker.presence`)."""
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class GenerateTally(Table):
    """How many requests for pictures took how long; counted by each api process, written every few seconds."""

    __tablename__ = "generate_tally"

    slot: Mapped[datetime] = mapped_column(primary_key=True)
    """Begin of five minutes."""
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"), primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    """ok, or the code of the refusal."""
    bucket: Mapped[int] = mapped_column(primary_key=True)
    """Of the time it took (`api.tally`)."""
    count: Mapped[int] = mapped_column(BigInteger)


class Owner(Table):
    __tablename__ = "owner"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Table):
    """Only the SHA-256 of a key is kept: 256 random bits need no slow hash (ASVS 6.5.2)."""

    __tablename__ = "api_key"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"))
    label: Mapped[str]
    secret_sha256: Mapped[bytes] = mapped_column(unique=True)
    previous_sha256: Mapped[bytes | None] = mapped_column(unique=True)
    """The secret before the last rotation; counts until `previous_until`."""
    previous_until: Mapped[datetime | None]
    scopes: Mapped[list[str]]
    """Any of admin, train, generate, read; admin implies the others."""
    limits: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Settings of the installation that are another number for this key (`api.limits.LimitName`); 0 is no limit."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime | None]
    """Exact to a minute."""
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class DashboardSession(Table):
    """A browser signed in with an API key; ends with its key. Only the SHA-256 of the cookie's token is kept."""

    __tablename__ = "dashboard_session"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    api_key_id: Mapped[UUID] = mapped_column(ForeignKey("api_key.id"))
    token_sha256: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IdempotencyKey(Table):
    """A create that was answered, for a client that sends it again."""

    __tablename__ = "idempotency_key"
    __table_args__ = (UniqueConstraint("owner_id", "key"), Index("ix_idempotency_key_created_at", "created_at"))

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"))
    key: Mapped[str]
    request_sha256: Mapped[str]
    answer: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


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
    """An uploaded image, re-encoded; the object at `key` is PNG and named by its hash."""

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
    """By the image check, 0 to 1; None when none ran."""


class Job(Table):
    """One training of one concept. Every write by a worker carries the fence of its claim (`api.domain.jobs`)."""

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
    """Version of the concept that this job makes, from 1."""
    preset: Mapped[str]
    overrides: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Fields of OpadConfig that differ from the preset (for instance a shorter demo run)."""
    seed: Mapped[int] = mapped_column(BigInteger)

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
    losses: Mapped[dict[str, float]] = mapped_column(default=dict)
    preview_key: Mapped[str | None]

    error_code: Mapped[str | None]
    """oom, bad_image, invalid, lost_worker, storage, diverged or internal."""
    error_detail: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    concept: Mapped[Concept] = relationship(back_populates="jobs", lazy="raise")


class JobEvent(Table):
    """What a watcher of a job is told. The database itself appends a row with each change of a job (migration 0004)."""

    __tablename__ = "job_event"
    __table_args__ = (Index("ix_job_event_job_id_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    """Rises with each change of one job: a change holds the job's row until it is committed."""
    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id"))
    kind: Mapped[str]
    """state, progress or preview."""
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


class ErasedTraining(Table):
    """When an erased concept was trained: its attempts are gone, the minutes of the day stay used."""

    __tablename__ = "erased_training"
    __table_args__ = (Index("ix_erased_training_owner_id_ended_at", "owner_id", "ended_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]


class Checkpoint(Table):
    """A committed checkpoint: the row is inserted, under the fence, after its object was written and hashed."""

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


class Bundle(Table):
    """The trained artefact. UNIQUE(job_id) is what makes two results of one job impossible."""

    __tablename__ = "bundle"
    __table_args__ = (Index("ix_bundle_concept_id_version", "concept_id", "version"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id"), unique=True)
    concept_id: Mapped[UUID] = mapped_column(ForeignKey("concept.id"))
    version: Mapped[int]
    key: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    report: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """`opad_core.evaluation.report.ReportCard.figures`; None when it could not be judged."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Image(Table):
    """A generated picture that is kept, with the settings that draw it again."""

    __tablename__ = "image"
    __table_args__ = (
        Index("ix_image_concept_id_id", "concept_id", "id"),
        Index("ix_image_owner_id_id", "owner_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"))
    concept_id: Mapped[UUID] = mapped_column(ForeignKey("concept.id"))
    version: Mapped[int | None]
    """Of the concept; None when the untouched base drew it."""
    prompt: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str]
    """png, jpeg or webp."""
    check_score: Mapped[float | None]
    """By the image check, 0 to 1; None when none ran."""
    key: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class PreferenceVote(Table):
    """Which of two pictures of one prompt and seed somebody liked better, not knowing who drew which."""

    __tablename__ = "preference_vote"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    concept_id: Mapped[UUID] = mapped_column(ForeignKey("concept.id"), index=True)
    first_version: Mapped[int]
    second_version: Mapped[int]
    """Of the concept, the smaller one first; 0 is the untouched student."""
    chosen: Mapped[str]
    """first, second or neither."""
    prompt: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Export(Table):
    """A version in another tool's layout; its row is made with the bundle's, by the transaction that ends the job."""

    __tablename__ = "export"
    __table_args__ = (UniqueConstraint("bundle_id", "layout"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    bundle_id: Mapped[UUID] = mapped_column(ForeignKey("bundle.id"))
    layout: Mapped[str]
    """diffusers, kohya or textual_inversion."""
    key: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    relative_error: Mapped[float | None]
    """What the rank of a LoRA lost of the learned difference; None where nothing is approximated."""
