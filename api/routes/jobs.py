"""Jobs: read, cancel and retry trainings."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Query, Request, Response
from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from starlette.concurrency import run_in_threadpool

from api.audit import TrailDep
from api.auth import Caller, Reader, Trainer
from api.concept_refusals import references_gone
from api.dispatch import notify_workers
from api.domain import jobs
from api.domain.errors import Conflict, NotFound
from api.domain.settings import Preset
from api.domain.storage import job_image_key
from api.domain.tables import Attempt, Bundle, Concept, Job, JobState, Reference
from api.domain.text_rules import as_read
from api.domain.wall_time import ATTEMPTS
from api.forecast import forecast_open_jobs
from api.job_times import EXISTED, WORKED, times_of
from api.quotas import check_training
from api.schemas import AttemptList, AttemptOut, JobOut, JobPage
from api.services import ServicesDep, SessionDep

router = APIRouter(tags=["jobs"])


async def described_jobs(
    session: AsyncSession,
    *conditions: ColumnElement[bool],
    order_by: Sequence[ColumnElement[Any]] = (Job.id.desc(),),
    limit: int | None = None,
) -> list[JobOut]:
    """Read jobs, newest first by default, each with its concept's name and its place in the queue of all owners."""
    ahead = aliased(Job)
    place = (
        select(func.count()).where(ahead.state == JobState.queued, ahead.id <= Job.id).correlate(Job).scalar_subquery()
    )
    query = (
        select(Job, Concept.name, case((Job.state == JobState.queued, place)), Bundle, EXISTED, WORKED, ATTEMPTS)
        .join(Concept, Concept.id == Job.concept_id)
        .outerjoin(Bundle, Bundle.job_id == Job.id)
        .where(*conditions)
        .order_by(*order_by)
        .limit(limit)
        .execution_options(populate_existing=True)
    )
    rows = (await session.execute(query)).all()
    unreported = any(not job.state.is_final and job.eta_seconds is None for job, *_ in rows)
    expected = await forecast_open_jobs(session) if unreported else {}
    return [
        JobOut.of(
            job,
            name,
            position,
            times_of(
                job,
                existed_seconds=existed,
                worked_seconds=worked,
                attempts=attempts,
                expected=expected.get(job.id),
            ),
            bundle,
        )
        for job, name, position, bundle, existed, worked, attempts in rows
    ]


async def active_jobs(session: AsyncSession, who: Caller, *, limit: int) -> list[JobOut]:
    """Read the running jobs and then the queued ones, in the order of the queue."""
    return await described_jobs(
        session,
        Job.owner_id == who.owner_id,
        Job.state.in_([JobState.running, JobState.queued]),
        order_by=(Job.state == JobState.queued, Job.id.asc()),
        limit=limit,
    )


async def _own_job(session: AsyncSession, who: Caller, job_id: UUID) -> JobOut:
    found = await described_jobs(session, Job.owner_id == who.owner_id, Job.id == job_id)
    if not found:
        raise NotFound(f"there is no job {job_id} here; GET /v1/jobs lists yours", "no_such_job")
    return found[0]


@router.get("/jobs", response_model=JobPage)
async def list_jobs(
    who: Reader,
    session: SessionDep,
    state: JobState | None = None,
    concept_id: UUID | None = None,
    name: Annotated[str | None, Query(max_length=80, description="part of the concept's name")] = None,
    preset: Preset | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: UUID | None = None,
) -> JobPage:
    """List your jobs, newest first."""
    conditions: list[ColumnElement[bool]] = [Job.owner_id == who.owner_id]
    if state is not None:
        conditions.append(Job.state == state)
    if concept_id is not None:
        conditions.append(Job.concept_id == concept_id)
    if name:
        conditions.append(Concept.name.icontains(as_read(name), autoescape=True))
    if preset is not None:
        conditions.append(Job.preset == preset)
    if cursor is not None:
        conditions.append(Job.id < cursor)
    found = await described_jobs(session, *conditions, limit=limit + 1)
    return JobPage(items=found[:limit], next=str(found[limit - 1].id) if len(found) > limit else None)


@router.get("/jobs/{job_id}", response_model=JobOut)
async def read_job(job_id: UUID, who: Reader, session: SessionDep) -> JobOut:
    """Read a job's state, progress, remaining time and losses. Poll about once a second, or use `/events`."""
    return await _own_job(session, who, job_id)


@router.get("/jobs/{job_id}/preview", response_class=Response, responses={200: {"content": {"image/png": {}}}})
async def read_preview(
    job_id: UUID, request: Request, services: ServicesDep, who: Reader, session: SessionDep
) -> Response:
    """Read the newest preview: images of the concept at fixed seeds, from the current state of the training."""
    key = await session.scalar(select(Job.preview_key).where(Job.owner_id == who.owner_id, Job.id == job_id))
    if key is None:
        await _own_job(session, who, job_id)
        raise NotFound(f"job {job_id} has no preview yet; the first comes some seconds after it starts", "no_preview")
    headers = {"ETag": f'"{key}"', "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    png = await run_in_threadpool(services.storage.read, key)
    return Response(png, media_type="image/png", headers=headers)


@router.get(
    "/jobs/{job_id}/images/{position}", response_class=Response, responses={200: {"content": {"image/png": {}}}}
)
async def read_report_image(
    job_id: UUID, position: int, services: ServicesDep, who: Reader, session: SessionDep
) -> Response:
    """Read an image (from 1) of the report card of what the job learned."""
    report = await session.scalar(
        select(Bundle.report).join(Job, Job.id == Bundle.job_id).where(Job.owner_id == who.owner_id, Job.id == job_id)
    )
    hashes = (report or {}).get("images", [])
    if not 1 <= position <= len(hashes):
        raise NotFound(f"there is no image {position} of a job {job_id} here", "no_such_image")
    sha256 = hashes[position - 1]
    png = await run_in_threadpool(services.storage.get, job_image_key(job_id, sha256), sha256)
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=31536000, immutable"})


@router.post("/jobs/{job_id}/cancel", response_model=JobOut)
async def cancel_job(job_id: UUID, who: Trainer, session: SessionDep, trail: TrailDep) -> JobOut:
    """Cancel a job: at once if it is queued, within seconds if it runs (`cancel_requested` until then)."""
    before = await _own_job(session, who, job_id)
    if (await session.execute(jobs.request_cancel(job_id))).one_or_none() is None:
        raise Conflict(
            f"job {job_id} is {before.state}; only a queued or running job can be cancelled",
            "job_over",
            state=before.state,
        )
    after = await _own_job(session, who, job_id)
    await trail.record("job.cancel", job_id, "cancelled" if after.state == "cancelled" else "cancel_requested")
    return after


@router.post("/jobs/{job_id}/retry", response_model=JobOut)
async def retry_job(
    job_id: UUID,
    request: Request,
    services: ServicesDep,
    tasks: BackgroundTasks,
    who: Trainer,
    session: SessionDep,
    trail: TrailDep,
) -> JobOut:
    """Queue a failed or cancelled job again with new attempts. It continues from its last checkpoint."""
    before = await _own_job(session, who, job_id)
    await check_training(session, services.settings, who, request)
    if (await session.execute(jobs.retry(job_id))).one_or_none() is None:
        raise Conflict(
            f"job {job_id} is {before.state}; only a failed or cancelled job can be retried",
            "job_not_over" if before.state != "succeeded" else "job_over",
            state=before.state,
        )
    if await session.scalar(select(Reference.id).where(Reference.concept_id == before.concept_id).limit(1)) is None:
        raise references_gone(before.concept_name)
    tasks.add_task(notify_workers, services.notifier, job_id, before.preset)  # runs after the commit and the answer
    after = await _own_job(session, who, job_id)
    await trail.record("job.retry", job_id, "queued")
    return after


@router.get("/jobs/{job_id}/attempts", response_model=AttemptList)
async def list_attempts(job_id: UUID, who: Reader, session: SessionDep) -> AttemptList:
    """List the job's attempts, oldest first, with how each ended."""
    await _own_job(session, who, job_id)
    found = await session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.fence))
    return AttemptList(
        items=[
            AttemptOut(worker=a.worker, started_at=a.started_at, ended_at=a.ended_at, cause=a.cause, detail=a.detail)
            for a in found
        ]
    )
