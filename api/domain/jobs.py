"""The life of a job, as statements that decide by themselves who wins.

Each function returns one SELECT over data-modifying CTEs: a single statement, so it is atomic in any session, sync or
async, and its row is the winner's receipt. No row means that the job was not in the state (or not under the fence)
that the change needs: somebody else was first, and the caller must write nothing more for this claim.
Only the database's clock is read. Objects loaded before do not see the change; select them again.

    claim            queued -> running, a new fence and an attempt row
    heartbeat        running stays running: longer lease, progress; answers the cancel wish
    finish           running -> succeeded, together with the one bundle
    fail             running -> failed, for errors that another attempt would meet again
    lose_attempt     running -> queued after a pause, or failed once the attempts are used up, or cancelled if wished
    expire_leases    the same for every job whose lease ran out
    lose_attempts_of the same for every job of one worker
    requeue          running -> queued at once, attempt given back: a clean shutdown of the worker
    cancel           running -> cancelled: the trainer honours the wish
    request_cancel   queued -> cancelled; on a running job leaves the wish
    retry            failed | cancelled -> queued, same row, with fresh attempts, from the last checkpoint
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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

from api.domain.tables import Attempt, Bundle, Checkpoint, Export, Job, JobState
from api.domain.webhooks import announced

NOTIFY_TASK = "job.notify"
"""Celery task that carries a job id to a trainer host. It is a hint, which may be lost or delivered twice."""


def notify_queue(preset: str) -> str:
    """Return the preset's Celery queue. A host listens to the queues of the presets it trains (`Settings.trains`)."""
    return f"train.{preset}"


KEPT_CHECKPOINTS = 2
"""The newest, and the one before in case the newest turns out damaged."""

LONGEST_PAUSE_SECONDS = 600.0

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
"""For each change, the states it may begin from and the states it may lead to; every statement here reads it."""


@dataclass(frozen=True)
class JobProgress:
    """What a heartbeat tells about a running job. Losses that are not finite are left out: JSON has no NaN."""

    stage: str
    step: int
    total_steps: int
    eta_seconds: float | None
    losses: Mapping[str, float]
    preview_key: str | None
    """None leaves the last preview in place."""

    def columns(self) -> dict[str, Any]:
        columns: dict[str, Any] = {
            "stage": self.stage,
            "step": self.step,
            "total_steps": self.total_steps,
            "eta_seconds": self.eta_seconds,
            "losses": {name: value for name, value in self.losses.items() if math.isfinite(value)},
        }
        return columns if self.preview_key is None else columns | {"preview_key": self.preview_key}


@dataclass(frozen=True)
class StoredExport:
    """An object that shows the bundle in another tool's layout; fields as in the table."""

    layout: str
    key: str
    sha256: str
    size: int
    relative_error: float | None


def claim(
    worker: str, *, lease_seconds: float, job_id: UUID | None = None, presets: Sequence[str] = ()
) -> Select[UUID, int, int]:
    """Take the named job, or the oldest waiting one, of those presets, or of any. Row: job id, fence, attempt."""
    ready = [_begins("claim"), Job.run_after <= func.now()]
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
    return select(claimed.c.id, claimed.c.fence, claimed.c.attempt).add_cte(attempt.cte("begun"))


def heartbeat(job_id: UUID, fence: int, *, lease_seconds: float, progress: JobProgress | None = None) -> Select[bool]:
    """Row: whether somebody wishes the job cancelled."""
    renewed = (
        update(Job)
        .where(*_held("heartbeat", job_id, fence))
        .values(
            lease_until=func.now() + timedelta(seconds=lease_seconds),
            **(progress.columns() if progress is not None else {}),
        )
        .returning(Job.cancel_requested_at.is_not(None).label("cancel_wished"))
        .cte("renewed")
    )
    return select(renewed.c.cancel_wished)


def commit_checkpoint(
    job_id: UUID, fence: int, *, step: int, key: str, sha256: str, size: int
) -> Select[UUID, list[str] | None]:
    """Make an uploaded checkpoint count. Row: its id, and the keys of the checkpoints it makes superfluous."""
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
        # The same commit sent again, after its first answer was lost with the connection; or the step come to again,
        # after the training was rolled back.
        .on_conflict_do_update(
            constraint="uq_checkpoint_job_id_fence_step",
            set_={"key": key, "sha256": sha256, "size": size, "created_at": func.now()},
        )
        .returning(Checkpoint.id)
        .cte("made")
    )
    return select(made.c.id, select(func.array_agg(dropped.c.key)).scalar_subquery())


def checkpoints(job_id: UUID) -> Select[Checkpoint]:
    """The committed checkpoints, best first: a later fence resumed from a checkpoint that it had found sound."""
    return select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(*_NEWEST_FIRST)


def finish(
    job_id: UUID,
    fence: int,
    *,
    key: str,
    sha256: str,
    size: int,
    exports: Sequence[StoredExport] = (),
    report: Mapping[str, Any] | None = None,
) -> Select[UUID]:
    """The one result. Row: the bundle's id. A cancel wish that came first wins: then there is no row."""
    moved = _moved("finish", job_id, fence, Job.cancel_requested_at.is_(None), step=func.coalesce(Job.total_steps, 0))
    made = (
        insert(Bundle)
        .from_select(
            ["id", "job_id", "concept_id", "version", "key", "sha256", "size", "report"],
            select(
                literal(uuid7(), Bundle.id.type),
                moved.c.id,
                moved.c.concept_id,
                moved.c.version,
                literal(key),
                literal(sha256),
                literal(size, Bundle.size.type),
                literal(report, Bundle.report.type),
            ),
            include_defaults=False,
        )
        .returning(Bundle.id)
        .cte("made")
    )
    dropped = delete(Checkpoint).where(Checkpoint.job_id == moved.c.id).cte("dropped")
    rows = [_export_row(made, export) for export in exports]
    return select(made.c.id).add_cte(*_end_of_attempt(moved, "succeeded"), dropped, *rows)


def fail(job_id: UUID, fence: int, *, code: str, detail: str) -> Select[JobState]:
    moved = _moved("fail", job_id, fence, error_code=code, error_detail=detail)
    return select(moved.c.state).add_cte(*_end_of_attempt(moved, code, detail))


def lose_attempt(
    job_id: UUID, fence: int, *, cause: str, detail: str | None, lease_seconds: float, max_attempts: int
) -> Select[JobState]:
    """An attempt ended without a result and another may do better."""
    held = _held("lose_attempt", job_id, fence)
    moved = _lost(*held, cause=cause, detail=detail, lease_seconds=lease_seconds, cap=max_attempts)
    return select(moved.c.state).add_cte(*_end_of_attempt(moved, cause, detail))


def expire_leases(*, lease_seconds: float, max_attempts: int) -> Select[UUID, int, JobState]:
    """Rows: job id, fence, new state, for each job whose holder fell silent."""
    silent = (_begins("lose_attempt"), Job.lease_until < func.now())
    cause, detail = "lost_worker", "the lease ran out"
    moved = _lost(*silent, cause=cause, detail=detail, lease_seconds=lease_seconds, cap=max_attempts)
    return select(moved.c.id, moved.c.fence, moved.c.state).add_cte(*_end_of_attempt(moved, cause, detail))


def lose_attempts_of(worker: str, *, lease_seconds: float, max_attempts: int) -> Select[UUID, int, JobState]:
    """Rows as `expire_leases`, for every job said to run on a worker that is known to run none."""
    its_own = (_begins("lose_attempt"), Job.worker == worker)
    cause, detail = "lost_worker", "the worker started anew"
    moved = _lost(*its_own, cause=cause, detail=detail, lease_seconds=lease_seconds, cap=max_attempts)
    return select(moved.c.id, moved.c.fence, moved.c.state).add_cte(*_end_of_attempt(moved, cause, detail))


def requeue(job_id: UUID, fence: int) -> Select[JobState]:
    wished = Job.cancel_requested_at.is_not(None)
    moved = _moved(
        "requeue",
        job_id,
        fence,
        state=case((wished, _state(JobState.cancelled)), else_=_state(JobState.queued)),
        finished_at=case((wished, func.now()), else_=null()),
        attempt=Job.attempt - 1,
        run_after=func.now(),
    )
    return select(moved.c.state).add_cte(*_end_of_attempt(moved, "shutdown"))


def cancel(job_id: UUID, fence: int) -> Select[JobState]:
    moved = _moved("cancel", job_id, fence)
    return select(moved.c.state).add_cte(*_end_of_attempt(moved, "cancelled"))


def request_cancel(job_id: UUID) -> Select[JobState]:
    """Row: cancelled, or running when the trainer has yet to see the wish."""
    waiting = Job.state == JobState.queued
    moved = (
        update(Job)
        .where(_begins("request_cancel"), Job.id == job_id)
        .values(
            state=case((waiting, _state(JobState.cancelled)), else_=Job.state),
            finished_at=case((waiting, func.now()), else_=Job.finished_at),
            cancel_requested_at=func.coalesce(Job.cancel_requested_at, func.now()),
        )
        .returning(*_TOLD)
        .cte("moved")
    )
    return select(moved.c.state).add_cte(announced(moved))


def retry(job_id: UUID) -> Select[JobState]:
    moved = (
        update(Job)
        .where(_begins("retry"), Job.id == job_id)
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
    """The jobs that a trainer could take now, oldest first. Rows: id, preset."""
    return select(Job.id, Job.preset).where(_begins("claim"), Job.run_after <= func.now()).order_by(Job.id).limit(limit)


_TOLD = (Job.id, Job.fence, Job.state, Job.owner_id, Job.concept_id, Job.version, Job.error_code, Job.error_detail)

_NEWEST_FIRST = (Checkpoint.fence.desc(), Checkpoint.created_at.desc(), Checkpoint.step.desc())
"""By time within a fence, for a training that was rolled back is at an earlier step than what it left."""


def _begins(change: str) -> ColumnElement[bool]:
    return Job.state.in_(TRANSITIONS[change][0])


def _held(change: str, job_id: UUID, fence: int) -> tuple[ColumnElement[bool], ...]:
    return _begins(change), Job.id == job_id, Job.fence == fence


def _state(state: JobState) -> ColumnElement[JobState]:
    return literal(state, Job.state.type)


def _moved(change: str, job_id: UUID, fence: int, condition: ColumnElement[bool] | None = None, **values: Any) -> CTE:
    """The fenced UPDATE that ends a claim; by default to the one state that `change` leads to, for good."""
    values.setdefault("finished_at", func.now())
    if "state" not in values:
        (values["state"],) = TRANSITIONS[change][1]
    conditions = (*_held(change, job_id, fence), *(() if condition is None else (condition,)))
    return _update_ended(*conditions, **values)


def _lost(*conditions: ColumnElement[bool], cause: str, detail: str | None, lease_seconds: float, cap: int) -> CTE:
    """Pause a sixth of the lease (10 s by default), doubled with each attempt, so a job that kills its trainer does
    not spin."""
    wished = Job.cancel_requested_at.is_not(None)
    exhausted = Job.attempt >= cap
    used_up = and_(not_(wished), exhausted)
    seconds = func.least(lease_seconds / 6 * func.pow(2, Job.attempt - 1), LONGEST_PAUSE_SECONDS)
    pause = func.make_interval(0, 0, 0, 0, 0, 0, seconds, type_=Interval)
    return _update_ended(
        *conditions,
        state=case(
            (wished, _state(JobState.cancelled)),
            (exhausted, _state(JobState.failed)),
            else_=_state(JobState.queued),
        ),
        finished_at=case((or_(wished, exhausted), func.now()), else_=null()),
        error_code=case((used_up, cause), else_=null()),
        error_detail=case((used_up, f"no attempt of {cap} came to its end; the last: {detail or cause}"), else_=null()),
        run_after=func.now() + pause,
    )


def _update_ended(*conditions: ColumnElement[bool], **values: Any) -> CTE:
    return (
        update(Job)
        .where(*conditions)
        .values(worker=None, lease_until=None, eta_seconds=None, **values)
        .returning(*_TOLD)
        .cte("moved")
    )


def _end_of_attempt(moved: CTE, cause: str, detail: str | None = None) -> tuple[CTE, CTE]:
    """The attempts are closed, and webhooks hear of the jobs for which this was the end."""
    closed = (
        update(Attempt)
        .where(Attempt.job_id == moved.c.id, Attempt.fence == moved.c.fence)
        .values(ended_at=func.now(), cause=cause, detail=detail)
        .cte("closed")
    )
    return closed, announced(moved)


def _export_row(made: CTE, export: StoredExport) -> CTE:
    values: dict[str, Any] = {"id": uuid7(), **asdict(export)}
    columns = [literal(value, Export.__table__.c[name].type) for name, value in values.items()]
    row = select(*columns, made.c.id)
    return insert(Export).from_select([*values, "bundle_id"], row, include_defaults=False).cte(f"to_{export.layout}")
