"""The times of a job: how long it has waited and worked, and how long it will take."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Float, func, select

from api.domain.tables import Attempt, Job, JobState
from api.domain.training_times import EtaSource
from api.domain.wall_time import PARTS, wall_time
from api.forecast import Expected


class WallTimePart(BaseModel):
    part: str = Field(description="; ".join(f"`{name}`: {text}" for name, text in PARTS.items()))
    seconds: float


class JobTimes(BaseModel):
    eta_seconds: float | None = Field(description="seconds until the job ends; null if it has ended or nobody knows")
    eta_source: EtaSource | None = Field(
        description="`measured`: from the job's own iterations; `history`: from past trainings of the same "
        "method and preset; `estimate`: from the documented times of the base"
    )
    starts_in_seconds: float | None = Field(
        description="seconds until a trainer is free; null if the job is not queued or nobody knows"
    )
    queued_seconds: float = Field(description="from the creation to the first start")
    worked_seconds: float = Field(description="the sum of all attempts")
    between_attempts_seconds: float = Field(description="since the first start, without an attempt")
    wall_time: list[WallTimePart] = Field(
        description="where `worked_seconds` went, summed over all attempts; the parts do not overlap. While an attempt "
        "runs, up to its last heartbeat. Empty if no attempt has reported its parts"
    )


def times_of(
    job: Job,
    *,
    existed_seconds: float,
    worked_seconds: float,
    attempts: Iterable[Mapping[str, Any]] | None,
    expected: Expected | None,
) -> JobTimes:
    """Build the times from the job's row and `EXISTED`, `WORKED` and `ATTEMPTS`.

    `expected` is the forecast of an open job.
    """
    eta, source = job.eta_seconds, job.eta_source
    starts_in = expected.starts_in_seconds if expected else None
    starts = job.state is JobState.running or starts_in is not None
    if eta is None and starts and expected and expected.seconds is not None:
        eta, source = (starts_in or 0.0) + expected.seconds, expected.source
    queued = existed_seconds if job.started_at is None else (job.started_at - job.created_at).total_seconds()
    return JobTimes(
        eta_seconds=eta,
        eta_source=source,  # type: ignore[arg-type]  # a text column of these three
        starts_in_seconds=starts_in,
        queued_seconds=round(queued, 3),
        worked_seconds=round(worked_seconds, 3),
        between_attempts_seconds=round(max(0.0, existed_seconds - queued - worked_seconds), 3),
        wall_time=[WallTimePart(part=part, seconds=round(seconds, 3)) for part, seconds in wall_time(attempts).items()],
    )


def _seconds(interval: ColumnElement[Any]) -> ColumnElement[float]:
    return func.extract("epoch", interval).cast(Float)


EXISTED = _seconds(func.coalesce(Job.finished_at, func.now()) - Job.created_at)
"""Seconds from a job's creation to its end, or until now."""
QUEUED = _seconds(Job.started_at - Job.created_at)
"""Seconds from a job's creation to its first start; null before it."""
WORKED = (
    select(func.coalesce(func.sum(_seconds(func.coalesce(Attempt.ended_at, func.now()) - Attempt.started_at)), 0.0))
    .where(Attempt.job_id == Job.id)
    .correlate(Job)
    .scalar_subquery()
)
"""Seconds of a job's attempts."""
