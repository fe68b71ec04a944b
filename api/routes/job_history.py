"""A job's history: its states, previews, checkpoints and log."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from api.auth import Caller, Reader
from api.domain import job_log
from api.domain.errors import NotFound
from api.domain.storage import ObjectMissing, Storage, preview_key, preview_prefix
from api.domain.tables import Checkpoint, Job, JobEvent
from api.public_address import link
from api.schemas import JobError, JobStateName, Out
from api.services import ServicesDep, SessionDep

router = APIRouter(tags=["jobs"])


class JobMoment(Out):
    at: datetime
    state: JobStateName
    attempt: int
    cancel_requested: bool
    error: JobError | None


class PreviewOut(Out):
    step: int
    at: datetime
    url: str


class CheckpointOut(Out):
    step: int
    size: int = Field(description="bytes")
    sha256: str
    created_at: datetime


class JobHistory(Out):
    """The history of a job, oldest first."""

    states: list[JobMoment]
    previews: list[PreviewOut] = Field(description="images of the same seeds at each step")
    checkpoints: list[CheckpointOut] = Field(description="the current checkpoints; a finished job has none")


class LogLineOut(Out):
    at: datetime
    fence: int = Field(description="the fence of the attempt that wrote the line; it rises with each attempt")
    level: str = Field(description="the trainer's level; `output` is text beside its log, for instance of a crash")
    text: str


class JobLog(Out):
    """The last lines of the log, oldest first."""

    lines: list[LogLineOut]


async def _require_own(session: AsyncSession, who: Caller, job_id: UUID) -> None:
    if await session.scalar(select(Job.id).where(Job.owner_id == who.owner_id, Job.id == job_id)) is None:
        raise NotFound(f"there is no job {job_id} here; GET /v1/jobs lists yours", "no_such_job")


@router.get("/jobs/{job_id}/history", response_model=JobHistory)
async def read_history(job_id: UUID, services: ServicesDep, who: Reader, session: SessionDep) -> JobHistory:
    """List every change of the job's state, its previews and its checkpoints. `/events` has its losses."""
    await _require_own(session, who, job_id)
    events = await session.scalars(
        select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.kind == "state").order_by(JobEvent.id)
    )
    kept = await session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.created_at))
    states = [JobMoment(at=event.created_at, **event.data) for event in events]
    return JobHistory(
        states=states,
        previews=await run_in_threadpool(_previews, services.storage, job_id),
        checkpoints=[
            CheckpointOut(step=row.step, size=row.size, sha256=row.sha256, created_at=row.created_at) for row in kept
        ],
    )


@router.get("/jobs/{job_id}/log", response_model=JobLog)
async def read_log(
    job_id: UUID, who: Reader, session: SessionDep, lines: Annotated[int, Query(ge=1, le=job_log.MAX_LINES)] = 100
) -> JobLog:
    """Read the last log lines of all attempts, also of one that died. They are kept as long as the job's events."""
    await _require_own(session, who, job_id)
    newest_first = (await session.scalars(job_log.tail(job_id, lines))).all()
    return JobLog(lines=[LogLineOut(**event.data) for event in reversed(newest_first)])


def _previews(storage: Storage, job_id: UUID) -> list[PreviewOut]:
    """List the previews in the object store: a heartbeat reports only the newest one since the last heartbeat."""
    found = []
    for entry in storage.entries(preview_prefix(job_id)):
        step = int(entry.key.rsplit("/", 1)[1].removesuffix(".png"))
        found.append(PreviewOut(step=step, at=entry.written_at, url=link(f"/v1/jobs/{job_id}/previews/{step}")))
    return sorted(found, key=lambda preview: preview.step)


@router.get("/jobs/{job_id}/previews/{step}", response_class=Response, responses={200: {"content": {"image/png": {}}}})
async def read_preview_of_step(
    job_id: UUID, step: int, services: ServicesDep, who: Reader, session: SessionDep
) -> Response:
    """Read the preview of a step: images at fixed seeds. `/history` lists the steps."""
    await _require_own(session, who, job_id)
    try:
        png = await run_in_threadpool(services.storage.read, preview_key(job_id, step))
    except ObjectMissing as error:
        raise NotFound(
            f"job {job_id} has no preview of step {step}; GET /v1/jobs/{job_id}/history lists them", "no_preview"
        ) from error
    return Response(
        png, media_type="image/png", headers={"Cache-Control": "private, max-age=31536000, immutable"}
    )  # fmt: skip
