"""The overview: problems, jobs, latency of generate requests, engines and trainers."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Caller, Reader
from api.domain.engine_level import engine_level
from api.domain.replaced_bases import is_of_another_base, obstacle
from api.domain.tables import Concept, GenerateHistogram, Heartbeat, Job, JobState, Webhook, WebhookDelivery
from api.domain.tables.heartbeat import HEARTBEAT_TIMEOUT
from api.latency_histogram import OK, quantile
from api.schemas import Out
from api.services import SessionDep

router = APIRouter(tags=["system"])

_DAY = timedelta(hours=24)
_NEAR_FULL = 0.92
_MAX_SHOWN = 10


class HourOut(Out):
    at: datetime
    requests: int
    errors: int
    p95_ms: float | None


class GenerateFigures(Out):
    """Generate requests of the last 24 hours."""

    requests: int
    errors: int
    error_rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    codes: dict[str, int] = Field(description="number of errors by code")
    hours: list[HourOut]


class WorkerOut(Out):
    name: str
    kind: Literal["engine", "trainer"]
    machine: str = Field(description="name of its host; memory, disk and load in `facts` are those of the host")
    alive: bool
    seen_at: datetime
    started_at: datetime
    facts: dict[str, Any] = Field(description="base, device, memory and disk in bytes")
    level: str | None = Field(
        description="how an engine runs its networks, from slow to fast: eager, captured or compiled; null if unknown"
    )
    level_reason: str | None = Field(description="why the engine is not compiled, in one sentence")
    marks: str | None = Field(description="how an engine marks images: signed, xmp or off; null if unknown")
    marks_reason: str | None = Field(description="why the engine does not sign images although it should")


class AttentionOut(Out):
    kind: Literal[
        "base_changed",
        "base_changed_for_good",
        "job_failed",
        "others_failed",
        "worker_lost",
        "no_worker",
        "webhook_failing",
        "disk",
        "memory",
    ]
    message: str
    at: datetime | None
    object_id: UUID | None = Field(description="id of the job or webhook")


class Overview(Out):
    attention: list[AttentionOut] = Field(description="current problems; empty if there are none")
    jobs: dict[str, int] = Field(description="number of your jobs by state")
    generate: GenerateFigures
    workers: list[WorkerOut] = Field(description="engines and trainer hosts; only for the owner `admin`")


@router.get("/overview", response_model=Overview)
async def read_overview(who: Reader, session: SessionDep) -> Overview:
    """Read current problems, jobs by state, latency of generate requests, and engines and trainers."""
    workers = await read_workers(session) if who.operates else []
    return Overview(
        attention=[
            *_of_workers(workers, expected=who.operates),
            *await _concepts_of_another_base(session, who),
            *await _failed_jobs(session, who),
            *(await _others_failed_jobs(session, who) if who.operates else []),
            *await _failing_webhooks(session, who),
        ],
        jobs=await _jobs(session, who),
        generate=await _generate(session, who),
        workers=workers,
    )


async def read_workers(session: AsyncSession) -> list[WorkerOut]:
    """Return every engine and trainer host that has sent a heartbeat within a day."""
    alive = Heartbeat.seen_at > func.now() - HEARTBEAT_TIMEOUT
    rows = await session.execute(select(Heartbeat, alive).order_by(Heartbeat.kind, Heartbeat.name))
    return [_worker(row, is_alive) for row, is_alive in rows]


def _worker(row: Heartbeat, is_alive: bool) -> WorkerOut:
    level = engine_level(row.facts)
    return WorkerOut(
        name=row.name,
        kind=row.kind,  # type: ignore[arg-type]  # a text column of these two
        machine=row.facts.get("machine", row.name),
        alive=is_alive,
        seen_at=row.seen_at,
        started_at=row.started_at,
        facts=row.facts,
        level=level.level if level else None,
        level_reason=level.reason if level else None,
        marks=row.facts.get("marks"),
        marks_reason=row.facts.get("marks_reason"),
    )


def _of_workers(workers: list[WorkerOut], *, expected: bool) -> list[AttentionOut]:
    found = []
    for kind in ("engine", "trainer") if expected else ():
        if not any(worker.alive for worker in workers if worker.kind == kind):
            found.append(_problem("no_worker", f"no {kind} is running; start one"))
    for worker in workers:
        if not worker.alive:
            found.append(
                _problem("worker_lost", f"the {worker.kind} {worker.name} sends no heartbeats", worker.seen_at)
            )
    latest = {worker.machine: worker for worker in sorted(workers, key=lambda worker: worker.seen_at)}
    for machine, worker in latest.items():
        for what in ("disk", "memory"):
            used, total = worker.facts.get(f"{what}_used"), worker.facts.get(f"{what}_total")
            if used and total and used / total > _NEAR_FULL:
                message = f"the {what} of {machine} is {used / total:.0%} full"
                found.append(_problem(what, message, worker.seen_at))
    return found


def _problem(kind: Any, message: str, at: datetime | None = None, object_id: UUID | None = None) -> AttentionOut:
    return AttentionOut(kind=kind, message=message, at=at, object_id=object_id)


async def _concepts_of_another_base(session: AsyncSession, who: Caller) -> list[AttentionOut]:
    """Return what can be trained again and what cannot. What is in training needs no attention."""
    query = select(obstacle().label("code"), func.count()).where(Concept.owner_id == who.owner_id, is_of_another_base())
    counted = dict((await session.execute(query.group_by("code"))).all())
    lost = counted.get("references_gone", 0) + counted.get("unknown_class_noun", 0)
    found = []
    if able := counted.get(None, 0):
        found.append(_problem("base_changed", _dead_concepts(able)))
    if lost:
        found.append(_problem("base_changed_for_good", f"{_dead_concepts(lost)}, and cannot be trained again"))
    return found


def _dead_concepts(count: int) -> str:
    subject = "1 concept generates" if count == 1 else f"{count} concepts generate"
    return f"{subject} no images since the base was replaced"


async def _failed_jobs(session: AsyncSession, who: Caller) -> list[AttentionOut]:
    rows = await session.execute(
        select(Job.id, Job.version, Job.error_code, Job.error_detail, Job.finished_at, Concept.name)
        .join(Concept, Concept.id == Job.concept_id)
        .where(Job.owner_id == who.owner_id, Job.state == JobState.failed, Job.finished_at > func.now() - _DAY)
        .order_by(Job.finished_at.desc())
        .limit(_MAX_SHOWN)
    )
    return [
        _problem(
            "job_failed", f"training {row.name} v{row.version} failed: {row.error_detail}", row.finished_at, row.id
        )
        for row in rows
    ]


async def _others_failed_jobs(session: AsyncSession, who: Caller) -> list[AttentionOut]:
    """Return only the causes: an operator does not see the concepts of other owners."""
    rows = await session.execute(
        select(Job.error_code, func.count())
        .where(Job.owner_id != who.owner_id, Job.state == JobState.failed, Job.finished_at > func.now() - _DAY)
        .group_by(Job.error_code)
        .order_by(func.count().desc())
    )
    causes = ", ".join(f"{code} {count}" for code, count in rows)
    return [_problem("others_failed", f"jobs of other owners failed in the last 24 hours: {causes}")] if causes else []


async def _failing_webhooks(session: AsyncSession, who: Caller) -> list[AttentionOut]:
    unlucky = or_(WebhookDelivery.state == "failed", (WebhookDelivery.state == "pending") & (WebhookDelivery.tries > 1))
    rows = await session.execute(
        select(Webhook.id, Webhook.url, Webhook.disabled_at, func.count(WebhookDelivery.id).label("messages"))
        .outerjoin(
            WebhookDelivery,
            (WebhookDelivery.webhook_id == Webhook.id) & unlucky & (WebhookDelivery.created_at > func.now() - _DAY),
        )
        .where(Webhook.owner_id == who.owner_id)
        .group_by(Webhook.id)
        .having(or_(Webhook.disabled_at.is_not(None), func.count(WebhookDelivery.id) > 0))
    )
    found = []
    for row in rows:
        trouble = "answered 410 Gone and is disabled" if row.disabled_at else f"did not accept {row.messages} messages"
        found.append(_problem("webhook_failing", f"the webhook {row.url} {trouble}", row.disabled_at, row.id))
    return found


async def _jobs(session: AsyncSession, who: Caller) -> dict[str, int]:
    rows = await session.execute(
        select(Job.state, func.count()).where(Job.owner_id == who.owner_id).group_by(Job.state)
    )
    counted = dict(rows.all())
    return {state.value: counted.get(state, 0) for state in JobState}


async def _generate(session: AsyncSession, who: Caller) -> GenerateFigures:
    query = select(GenerateHistogram).where(GenerateHistogram.slot > func.now() - _DAY)
    if not who.operates:
        query = query.where(GenerateHistogram.owner_id == who.owner_id)
    all_times: Counter[int] = Counter()
    codes: Counter[str] = Counter()
    times: dict[datetime, Counter[int]] = {}
    errors: Counter[datetime] = Counter()
    for row in await session.scalars(query):
        hour = row.slot.astimezone(UTC).replace(minute=0)
        times.setdefault(hour, Counter())
        if row.outcome == OK:
            all_times[row.bucket] += row.count
            times[hour][row.bucket] += row.count
        else:
            codes[row.outcome] += row.count
            errors[hour] += row.count
    failed, succeeded = codes.total(), all_times.total()
    return GenerateFigures(
        requests=succeeded + failed,
        errors=failed,
        error_rate=failed / (succeeded + failed) if succeeded + failed else None,
        p50_ms=quantile(all_times, 0.5),
        p95_ms=quantile(all_times, 0.95),
        codes=dict(codes),
        hours=[
            HourOut(
                at=hour,
                requests=counts.total() + errors[hour],
                errors=errors[hour],
                p95_ms=quantile(counts, 0.95),
            )
            for hour, counts in sorted(times.items())
        ],
    )
