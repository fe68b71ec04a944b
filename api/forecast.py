"""When the open jobs start and end: their typical times, shared out among the trainers that are alive."""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.domain.tables import Concept, Heartbeat, Job, JobState, ServedBase
from api.domain.tables.heartbeat import HEARTBEAT_TIMEOUT
from api.domain.training_times import (
    EtaSource,
    TrainingTime,
    past_timings,
    settings_of,
    stage_iterations,
    typical_time,
    undone_iterations,
)


@dataclass(frozen=True)
class Expected:
    starts_in_seconds: float | None
    """None if the job runs, if no trainer is alive, or if the time of a job before it is unknown."""
    seconds: float | None
    """How long the training takes."""
    source: EtaSource | None


@dataclass(frozen=True)
class _Queue:
    times: "_Times"
    jobs: dict[UUID, Expected]
    trainers: int
    free_in: list[float]
    """Heap of the seconds until each trainer has worked through the open jobs."""


async def forecast_open_jobs(session: AsyncSession) -> Mapping[UUID, Expected]:
    """Forecast the queued and running jobs of all owners."""
    return (await _read_queue(session)).jobs


async def forecast_new_job(
    session: AsyncSession, *, base: str, method: str, preset: str, overrides: Mapping[str, Any]
) -> tuple[Expected, int]:
    """Forecast a job that would be created now. Also return the number of jobs that have to end before it starts."""
    queue = await _read_queue(session)
    expected = _enqueue(queue.free_in, *await queue.times.of(base, method, preset, overrides))
    return expected, max(0, len(queue.jobs) - queue.trainers + 1)


async def _read_queue(session: AsyncSession) -> _Queue:
    opened = (
        await session.execute(
            select(Job.id, Job.state, Job.method, Job.preset, Job.overrides, Job.step, Job.eta_seconds, Concept.base)
            .join(Concept, Concept.id == Job.concept_id)
            .where(Job.state.in_((JobState.queued, JobState.running)))
            .order_by(Job.id)
        )
    ).all()
    alive = Heartbeat.seen_at > func.now() - HEARTBEAT_TIMEOUT
    heartbeats = (await session.execute(select(Heartbeat.kind, Heartbeat.facts["device"].astext).where(alive))).all()
    times = _Times(session, next((device.split(":")[0] for _, device in heartbeats if device != "auto"), None))

    found: dict[UUID, Expected] = {}
    free_in = []
    for job in opened:
        if job.state is JobState.running:
            found[job.id] = Expected(None, *await times.left(job))
            free_in.append(_left(job.eta_seconds, found[job.id]))
    trainers = max(sum(kind == "trainer" for kind, _ in heartbeats), len(free_in))
    free_in += [0.0] * (trainers - len(free_in))
    heapq.heapify(free_in)
    for job in opened:
        if job.state is JobState.queued:
            found[job.id] = _enqueue(free_in, *await times.left(job))
    return _Queue(times, found, trainers, free_in)


class _Times:
    """The typical times of trainings, each read once."""

    def __init__(self, session: AsyncSession, device: str | None) -> None:
        self._session, self._device = session, device
        self._known: dict[tuple[str, str, str], TrainingTime | None] = {}
        self._bases: dict[str, ServedBase | None] = {}

    async def left(self, job: Row[Any]) -> tuple[float | None, EtaSource | None]:
        """Return how long the rest of an open job takes, and the source; twice None if it is unknown."""
        return await self.of(job.base, job.method, job.preset, job.overrides, step=job.step)

    async def of(
        self, base: str, method: str, preset: str, overrides: Mapping[str, Any], *, step: int = 0
    ) -> tuple[float | None, EtaSource | None]:
        """Return how long such a training takes after `step`, and the source; twice None if it is unknown."""
        kind = {"base": base, "method": method, "preset": preset}
        if (base, method, preset) not in self._known:
            past = (await self._session.execute(past_timings(**kind))).all()
            self._known[base, method, preset] = typical_time(past, **kind, device=self._device)
            if base not in self._bases:
                self._bases[base] = await self._session.get(ServedBase, base)
        known, served = self._known[base, method, preset], self._bases[base]
        values = None if served is None else settings_of(served.presets, served.methods, method=method, preset=preset)
        if known is None or values is None:
            return None, None
        seconds = known.seconds(undone_iterations(stage_iterations(method, {**values, **overrides}), step))
        return (None, None) if seconds is None else (seconds, known.source)


def _left(reported: float | None, expected: Expected) -> float:
    """Return the seconds until a trainer is free: what it reported, or before its first report the whole time."""
    left = expected.seconds if reported is None else reported
    return math.inf if left is None else left


def _enqueue(free_in: list[float], seconds: float | None, source: EtaSource | None) -> Expected:
    """Give a job to the trainer that is free first. `free_in` is the heap of when each trainer is free."""
    if not free_in:
        return Expected(None, seconds, source)
    starts_in = heapq.heappop(free_in)
    heapq.heappush(free_in, math.inf if seconds is None else starts_in + seconds)
    return Expected(starts_in if math.isfinite(starts_in) else None, seconds, source)
