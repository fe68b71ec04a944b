"""The state changes of a job, each one SQL statement that succeeds for one caller only.

Each function returns one SELECT over data-modifying CTEs. A single statement is atomic in any session, sync or async.
A row means that the change was made. No row means that the job was not in the state, or not under the fence, that the
change needs: another process was first, and the caller must write nothing more for this claim.
Only the database's clock is used. Objects that were loaded before do not show the change; select them again.

    claim            queued -> running, with a new fence and an attempt row
    heartbeat        running -> running: extends the lease, stores progress, returns the cancel request
    finish           running -> succeeded, together with the one bundle
    fail             running -> failed, for errors that another attempt would repeat
    lose_attempt     running -> queued after a backoff; failed if no attempt is left; cancelled if requested
    expire_leases    lose_attempt for every job whose lease ran out
    lose_attempts_of lose_attempt for every job of one worker
    requeue          running -> queued at once, without using up an attempt: a clean shutdown of the worker
    cancel           running -> cancelled, by the trainer, after a request
    request_cancel   queued -> cancelled; for a running job it stores the request
    retry            failed | cancelled -> queued: the same row with new attempts, from the last checkpoint
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Interval,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    not_,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.sql.selectable import CTE
from uuid_utils.compat import uuid7

from api.domain.job_reports import JobProgress, StoredExport
from api.domain.tables import Attempt, Bundle, Checkpoint, Export, Job, JobState
from api.domain.webhooks import announced

NOTIFY_TASK = "job.notify"
"""Celery task that carries a job id to a trainer host. It is a hint, which may be lost or delivered twice."""


def notify_queue(preset: str) -> str:
    """Return the preset's Celery queue. A host listens to the queues of the presets it trains (`Settings.trains`)."""
    return f"train.{preset}"


KEPT_CHECKPOINTS = 2
"""The newest, and the one before in case the newest is damaged."""

MAX_BACKOFF_SECONDS = 600.0

TRANSITIONS: Mapping[str, tuple[frozenset[JobState], frozenset[JobState]]] = {
    "claim": (frozenset({JobState.queued}), frozenset({JobState.running})),
    "heartbeat": (frozenset({JobState.running}), frozenset({JobState.running})),
    "finish": (frozenset({JobState.running}), frozenset({JobState.succeeded})),
    "fail": (frozenset({JobState.running}), frozenset({JobState.failed})),
    "lose_attempt": (frozenset({JobState.running}), frozenset({JobState.queued, JobState.failed, JobState.cancelled})),
    "requeue": (frozenset({JobState.running}), frozenset({JobState.queued, JobState.cancelled})),
    "cancel": (frozenset({JobState.running}), frozenset({JobState.cancelled})),
    "request_cancel": (
        frozenset({JobState.queued, JobState.running}),
        frozenset({JobState.cancelled, JobState.running}),
    ),
    "retry": (frozenset({JobState.failed, JobState.cancelled}), frozenset({JobState.queued})),
}
"""For each change, the states it starts from and the states it leads to. Every statement here uses this table."""


def claim(
    worker: str, *, lease_seconds: float, job_id: UUID | None = None, presets: Sequence[str] = ()
) -> Select[UUID, int, int]:
    """Claim the named job, or the oldest waiting one, of these presets or of any. Row: job id, fence, attempt."""
    ready = [_starts("claim"), Job.run_after <= func.now()]
    if presets:
        ready.append(Job.preset.in_(presets))
    if job_id is not None:
        ready.append(Job.id == job_id)
    candidate = (
        select(Job.id).where(*ready).order_by(Job.id).limit(1).with_for_update(skip_locked=True, key_share=True)
    ).cte("candidate")
    claimed = (
        update(Job)
        .where(Job.id == candidate.c.id)
        .values(
            state=JobState.running,
            worker=worker,
            fence=Job.fence + 1,
            attempt=Job.attempt + 1,
            lease_until=func.now() + timedelta(seconds=lease_seconds),
            started_at=func.coalesce(Job.started_at, func.now()),
            error_code=None,
            error_detail=None,
        )
        .returning(Job.id, Job.fence, Job.attempt)
        .cte("claimed")
    )
    attempt = insert(Attempt).from_select(
        ["id", "job_id", "fence", "worker"],
        select(literal(uuid7(), Attempt.id.type), claimed.c.id, claimed.c.fence, literal(worker)),
        include_defaults=False,
    )
    return select(claimed.c.id, claimed.c.fence, claimed.c.attempt).add_cte(attempt.cte("started"))


def heartbeat(
    job_id: UUID,
    fence: int,
    *,
    lease_seconds: float,
    progress: JobProgress | None = None,
    wall_time: Mapping[str, float] | None = None,
) -> Select[bool]:
    """Extend the lease, and store the progress and the attempt's wall time. Row: whether a cancel was requested."""
    renewed = (
        update(Job)
        .where(*_held("heartbeat", job_id, fence))
        .values(
            lease_until=func.now() + timedelta(seconds=lease_seconds),
            **(progress.columns() if progress is not None else {}),
        )
        .returning(Job.id, Job.fence, Job.cancel_requested_at.is_not(None).label("cancel_requested"))
        .cte("renewed")
    )
    beat = select(renewed.c.cancel_requested)
    if wall_time is None:
        return beat
    timed = (
        update(Attempt)
        .where(Attempt.job_id == renewed.c.id, Attempt.fence == renewed.c.fence)
        .values(wall_time=wall_time)
        .cte("timed")
    )
    return beat.add_cte(timed)


def commit_checkpoint(
    job_id: UUID, fence: int, *, step: int, key: str, sha256: str, size: int
) -> Select[UUID, list[str] | None]:
    """Commit an uploaded checkpoint. Row: its id, and the keys of the checkpoints that it replaces."""
    held = select(Job.id).where(*_held("heartbeat", job_id, fence)).with_for_update(key_share=True).cte("held")
    superfluous = (
        select(Checkpoint.id)
        .where(Checkpoint.job_id == job_id, or_(Checkpoint.fence != fence, Checkpoint.step != step))
        .order_by(*_NEWEST_FIRST)
        .offset(KEPT_CHECKPOINTS - 1)
        .scalar_subquery()
    )
    dropped = (
        delete(Checkpoint)
        .where(Checkpoint.job_id == held.c.id, Checkpoint.id.in_(superfluous))
        .returning(Checkpoint.key)
        .cte("dropped")
    )
    made = (
        pg_insert(Checkpoint)
        .from_select(
            ["id", "job_id", "fence", "step", "key", "sha256", "size"],
            select(
                literal(uuid7(), Checkpoint.id.type),
                held.c.id,
                literal(fence, Checkpoint.fence.type),
                literal(step),
                literal(key),
                literal(sha256),
                literal(size, Checkpoint.size.type),
            ),
            include_defaults=False,
        )
        # The commit was sent again after its first answer was lost with the connection, or the training was rolled back
        # and reached the step again.
        .on_conflict_do_update(
            constraint="uq_checkpoint_job_id_fence_step",
            set_={"key": key, "sha256": sha256, "size": size, "created_at": func.now()},
        )
        .returning(Checkpoint.id)
        .cte("made")
    )
    return select(made.c.id, select(func.array_agg(dropped.c.key)).scalar_subquery())


def checkpoints(job_id: UUID) -> Select[Checkpoint]:
    """Select the committed checkpoints, best first: a later fence resumed from a checkpoint that it had verified."""
    return select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(*_NEWEST_FIRST)


def finish(
    job_id: UUID,
    fence: int,
    *,
    key: str,
    sha256: str,
    size: int,
    base_sha256: str | None = None,
    exports: Sequence[StoredExport] = (),
    report: Mapping[str, Any] | None = None,
    timing: Mapping[str, Any] | None = None,
    steps: int | None = None,
) -> Select[UUID]:
    """Store the job's one result. Row: the bundle's id. After an earlier cancel request there is no row.

    `steps` are the iterations of the training, which may be fewer than the last heartbeat planned; None if unknown.
    """
    total = Job.total_steps if steps is None else literal(steps)
    moved = _end_claim(
        "finish", job_id, fence, Job.cancel_requested_at.is_(None), step=func.coalesce(total, 0), total_steps=total
    )
    made = (
        insert(Bundle)
        .from_select(
            ["id", "job_id", "concept_id", "version", "key", "sha256", "size", "base_sha256", "report"],
            select(
                literal(uuid7(), Bundle.id.type),
                moved.c.id,
                moved.c.concept_id,
                moved.c.version,
                literal(key),
                literal(sha256),
                literal(size, Bundle.size.type),
                literal(base_sha256, Bundle.base_sha256.type),
                literal(report, Bundle.report.type),
            ),
            include_defaults=False,
        )
        .returning(Bundle.id)
        .cte("made")
    )
    dropped = delete(Checkpoint).where(Checkpoint.job_id == moved.c.id).cte("dropped")
    rows = [_export_row(made, export) for export in exports]
    return select(made.c.id).add_cte(*_end_of_attempt(moved, "succeeded", timing=timing), dropped, *rows)


def fail(job_id: UUID, fence: int, *, code: str, detail: str) -> Select[JobState]:
    """End the job with an error that another attempt would repeat. Row: the new state."""
    moved = _end_claim("fail", job_id, fence, error_code=code, error_detail=detail)
    return select(moved.c.state).add_cte(*_end_of_attempt(moved, code, detail))


def lose_attempt(
    job_id: UUID, fence: int, *, cause: str, detail: str | None, lease_seconds: float, max_attempts: int
) -> Select[JobState]:
    """End an attempt without a result; another attempt may succeed. Row: the new state."""
    held = _held("lose_attempt", job_id, fence)
    moved = _lost(*held, cause=cause, detail=detail, lease_seconds=lease_seconds, cap=max_attempts)
    return select(moved.c.state).add_cte(*_end_of_attempt(moved, cause, detail))


def expire_leases(*, lease_seconds: float, max_attempts: int) -> Select[UUID, int, JobState]:
    """End the attempts whose lease ran out. Rows: job id, fence, new state."""
    expired = (_starts("lose_attempt"), Job.lease_until < func.now())
    cause, detail = "lost_worker", "the lease ran out"
    moved = _lost(*expired, cause=cause, detail=detail, lease_seconds=lease_seconds, cap=max_attempts)
    return select(moved.c.id, moved.c.fence, moved.c.state).add_cte(*_end_of_attempt(moved, cause, detail))


def lose_attempts_of(worker: str, *, lease_seconds: float, max_attempts: int) -> Select[UUID, int, JobState]:
    """End the attempts of a worker that is known to run none. Rows: job id, fence, new state."""
    its_own = (_starts("lose_attempt"), Job.worker == worker)
    cause, detail = "lost_worker", "the worker restarted"
    moved = _lost(*its_own, cause=cause, detail=detail, lease_seconds=lease_seconds, cap=max_attempts)
    return select(moved.c.id, moved.c.fence, moved.c.state).add_cte(*_end_of_attempt(moved, cause, detail))


def requeue(job_id: UUID, fence: int) -> Select[JobState]:
    """Give the job back at a clean shutdown of the worker. Row: the new state."""
    requested = Job.cancel_requested_at.is_not(None)
    moved = _end_claim(
        "requeue",
        job_id,
        fence,
        state=case((requested, _state(JobState.cancelled)), else_=_state(JobState.queued)),
        finished_at=case((requested, func.now()), else_=null()),
        attempt=Job.attempt - 1,
        run_after=func.now(),
    )
    return select(moved.c.state).add_cte(*_end_of_attempt(moved, "shutdown"))


def cancel(job_id: UUID, fence: int) -> Select[JobState]:
    """End a running job whose cancel was requested. Row: the new state."""
    moved = _end_claim("cancel", job_id, fence)
    return select(moved.c.state).add_cte(*_end_of_attempt(moved, "cancelled"))


def request_cancel(job_id: UUID) -> Select[JobState]:
    """Cancel a queued job, or ask the trainer to. Row: cancelled, or running until the trainer sees the request."""
    waiting = Job.state == JobState.queued
    moved = (
        update(Job)
        .where(_starts("request_cancel"), Job.id == job_id)
        .values(
            state=case((waiting, _state(JobState.cancelled)), else_=Job.state),
            finished_at=case((waiting, func.now()), else_=Job.finished_at),
            cancel_requested_at=func.coalesce(Job.cancel_requested_at, func.now()),
        )
        .returning(*_REPORTED)
        .cte("moved")
    )
    return select(moved.c.state).add_cte(announced(moved))


def retry(job_id: UUID) -> Select[JobState]:
    """Queue a failed or cancelled job again. Row: the new state."""
    moved = (
        update(Job)
        .where(_starts("retry"), Job.id == job_id)
        .values(
            state=JobState.queued,
            attempt=0,
            run_after=func.now(),
            cancel_requested_at=None,
            finished_at=None,
            error_code=None,
            error_detail=None,
        )
        .returning(Job.state)
        .cte("moved")
    )
    return select(moved.c.state)


def waiting(limit: int = 100) -> Select[UUID, str]:
    """Select the jobs that a trainer could claim now, oldest first. Rows: id, preset."""
    return select(Job.id, Job.preset).where(_starts("claim"), Job.run_after <= func.now()).order_by(Job.id).limit(limit)


_REPORTED = (Job.id, Job.fence, Job.state, Job.owner_id, Job.concept_id, Job.version, Job.error_code, Job.error_detail)

_NEWEST_FIRST = (Checkpoint.fence.desc(), Checkpoint.created_at.desc(), Checkpoint.step.desc())
"""The order within a fence is by time, because a training that was rolled back continues at an earlier step."""


def _starts(change: str) -> ColumnElement[bool]:
    return Job.state.in_(TRANSITIONS[change][0])


def _held(change: str, job_id: UUID, fence: int) -> tuple[ColumnElement[bool], ...]:
    return _starts(change), Job.id == job_id, Job.fence == fence


def _state(state: JobState) -> ColumnElement[JobState]:
    return literal(state, Job.state.type)


def _end_claim(
    change: str, job_id: UUID, fence: int, condition: ColumnElement[bool] | None = None, **values: Any
) -> CTE:
    """Build the fenced UPDATE that ends a claim; by default the job ends in the one state that `change` leads to."""
    values.setdefault("finished_at", func.now())
    if "state" not in values:
        (values["state"],) = TRANSITIONS[change][1]
    conditions = (*_held(change, job_id, fence), *(() if condition is None else (condition,)))
    return _update_ended(*conditions, **values)


def _lost(*conditions: ColumnElement[bool], cause: str, detail: str | None, lease_seconds: float, cap: int) -> CTE:
    """Build the UPDATE after a lost attempt. The backoff is a sixth of the lease, 10 s by default, and doubles with
    each attempt, so that a job that kills its trainer is not retried in a tight loop."""
    requested = Job.cancel_requested_at.is_not(None)
    exhausted = Job.attempt >= cap
    used_up = and_(not_(requested), exhausted)
    seconds = func.least(lease_seconds / 6 * func.pow(2, Job.attempt - 1), MAX_BACKOFF_SECONDS)
    backoff = func.make_interval(0, 0, 0, 0, 0, 0, seconds, type_=Interval)
    return _update_ended(
        *conditions,
        state=case(
            (requested, _state(JobState.cancelled)),
            (exhausted, _state(JobState.failed)),
            else_=_state(JobState.queued),
        ),
        finished_at=case((or_(requested, exhausted), func.now()), else_=null()),
        error_code=case((used_up, cause), else_=null()),
        error_detail=case((used_up, f"all {cap} attempts failed; the last one: {detail or cause}"), else_=null()),
        run_after=func.now() + backoff,
    )


def _update_ended(*conditions: ColumnElement[bool], **values: Any) -> CTE:
    return (
        update(Job)
        .where(*conditions)
        .values(worker=None, lease_until=None, eta_seconds=None, eta_source=None, iterations=[], **values)
        .returning(*_REPORTED)
        .cte("moved")
    )


def _end_of_attempt(
    moved: CTE, cause: str, detail: str | None = None, *, timing: Mapping[str, Any] | None = None
) -> tuple[CTE, CTE]:
    """Close the attempts, and write the webhook messages of the jobs that ended."""
    closed = (
        update(Attempt)
        .where(Attempt.job_id == moved.c.id, Attempt.fence == moved.c.fence)
        .values(ended_at=func.now(), cause=cause, detail=detail, timing=timing)
        .cte("closed")
    )
    return closed, announced(moved)


def _export_row(made: CTE, export: StoredExport) -> CTE:
    values: dict[str, Any] = {"id": uuid7(), **asdict(export)}
    columns = [literal(value, Export.__table__.c[name].type) for name, value in values.items()]
    row = select(*columns, made.c.id)
    return insert(Export).from_select([*values, "bundle_id"], row, include_defaults=False).cte(f"to_{export.layout}")
