"""What a job went through: its states, its previews at every step, the checkpoints it would go on from."""

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
    """What a job went through, oldest first."""

    states: list[JobMoment]
    previews: list[PreviewOut] = Field(description="the same seeds at every step")
    checkpoints: list[CheckpointOut] = Field(description="those kept at present; a finished job has none")


class LogLineOut(Out):
    at: datetime
    fence: int = Field(description="of the attempt that said it; rises with each attempt of the job")
    level: str = Field(description="as the trainer gave it; `output` is what was written past its log, as by a crash")
    text: str


class JobLog(Out):
    """The end of the log, oldest line first."""

    lines: list[LogLineOut]


async def _require_own(session: AsyncSession, who: Caller, job_id: UUID) -> None:
    if await session.scalar(select(Job.id).where(Job.owner_id == who.owner_id, Job.id == job_id)) is None:
        raise NotFound(f"there is no job {job_id} here; GET /v1/jobs lists yours", "no_such_job")


@router.get("/jobs/{job_id}/history", response_model=JobHistory)
async def read_history(job_id: UUID, services: ServicesDep, who: Reader, session: SessionDep) -> JobHistory:
    """Every change of the job's state, its previews and its checkpoints; its losses are told by `/events`."""
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
    job_id: UUID, who: Reader, session: SessionDep, lines: Annotated[int, Query(ge=1, le=job_log.KEPT)] = 100
) -> JobLog:
    """The last lines of the trainers' logs, of all attempts, also of one that died; kept with the job's events."""
    await _require_own(session, who, job_id)
    newest_first = (await session.scalars(job_log.tail(job_id, lines))).all()
    return JobLog(lines=[LogLineOut(**event.data) for event in reversed(newest_first)])


def _previews(storage: Storage, job_id: UUID) -> list[PreviewOut]:
    """Of the store, for a heartbeat tells only the newest of those drawn since the one before."""
    found = []
    for entry in storage.entries(preview_prefix(job_id)):
        step = int(entry.key.rsplit("/", 1)[1].removesuffix(".png"))
        found.append(PreviewOut(step=step, at=entry.written_at, url=f"/v1/jobs/{job_id}/previews/{step}"))
    return sorted(found, key=lambda preview: preview.step)


@router.get("/jobs/{job_id}/previews/{step}", response_class=Response, responses={200: {"content": {"image/png": {}}}})
async def read_preview_of_step(
    job_id: UUID, step: int, services: ServicesDep, who: Reader, session: SessionDep
) -> Response:
    """The pictures at fixed seeds as the training saw the concept at this step; `/history` lists the steps."""
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
