"""The page of all jobs, and the page of one job."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncSession

from api.dashboard.hints import HINTS
from api.dashboard.page import PageRoute, Viewer, ViewerDep, page
from api.dashboard.wall_time import wall_time_rows
from api.domain.errors import Unavailable
from api.domain.settings import Method, Preset
from api.domain.storage import StorageUnavailable
from api.domain.tables import JobState
from api.domain.training_times import settings_of
from api.routes import concepts, estimate, job_history, jobs, system
from api.schemas import MAX_ITERATIONS, EstimateIn, JobOut
from api.services import Services, ServicesDep, SessionDep

PAGE_SIZE = 25

router = APIRouter(prefix="/dashboard", route_class=PageRoute)


@router.get("/jobs")
async def job_list(
    request: Request,
    viewer: ViewerDep,
    services: ServicesDep,
    session: SessionDep,
    state: str = "",
    name: str = "",
    preset: str = "",
    cursor: UUID | None = None,
) -> Response:
    found = await jobs.list_jobs(
        viewer.who,
        session,
        state=JobState(state) if state in set(JobState) else None,
        name=name[:80] or None,
        preset=preset if preset in ("default", "paper") else None,  # type: ignore[arg-type]  # mypy does not narrow it
        limit=PAGE_SIZE,
        cursor=cursor,
    )
    chosen = {"state": state, "name": name, "preset": preset}
    query = {key: value for key, value in chosen.items() if value}
    return page(
        request,
        viewer,
        "jobs.html",
        jobs=found.items,
        next=f"?{urlencode({**query, 'cursor': found.next})}" if found.next else None,
        chosen=chosen,
        is_filtered=bool(query),
        is_later=cursor is not None,
        states=list(JobState),
        photo_count=services.settings.reference_count("photo"),
    )


@router.get("/jobs/{job_id}")
async def job_detail(
    request: Request, viewer: ViewerDep, services: ServicesDep, session: SessionDep, job_id: UUID
) -> Response:
    who = viewer.who
    job = await jobs.read_job(job_id, who, session)
    store_answers = True
    try:
        history = await job_history.read_history(job_id, services, who, session)
    except StorageUnavailable:  # the page must still show why the job failed, which is in the database
        store_answers = False
        history = job_history.JobHistory(states=[], previews=[], checkpoints=[])
    concept = await concepts.read_concept(job.concept_id, who, session)
    return page(
        request,
        viewer,
        "job.html",
        job=job,
        wall_time=wall_time_rows(job.wall_time),
        concept=concept,
        usual=await _usual_settings(services, viewer, session, job, concept.base),
        log=(await job_history.read_log(job_id, who, session)).lines,
        history=history,
        store_answers=store_answers,
        attempts=(await jobs.list_attempts(job_id, who, session)).items,
        hints=HINTS,
    )


@router.get("/jobs/{job_id}/progress")
async def job_progress(request: Request, viewer: ViewerDep, session: SessionDep, job_id: UUID) -> Response:
    """Render the parts of a job's page that change with each iteration."""
    job = await jobs.read_job(job_id, viewer.who, session)
    return page(request, viewer, "job_live.html", job=job, wall_time=wall_time_rows(job.wall_time))


@router.get("/estimate")
async def training_estimate(
    request: Request,
    viewer: ViewerDep,
    services: ServicesDep,
    session: SessionDep,
    method: Method = "opad",
    preset: Preset = "default",
    iterations: str = "",
    collaborative_iterations: str = "",
) -> Response:
    """Render the sentence that says how long a training would take, for forms. A wrong length shows none.

    What belongs to opad alone is left out for another method.
    """
    is_opad = method == "opad"
    training = EstimateIn(
        method=method,
        preset=preset if is_opad else "default",
        iterations=_length(iterations, at_least=1),
        collaborative_iterations=_length(collaborative_iterations, at_least=0) if is_opad else None,
    )
    try:
        found = await estimate.read_estimate(services, viewer.who, session, training)
    except Unavailable:
        found = None
    return page(request, viewer, "estimate.html", estimate=found)


def _length(value: str, *, at_least: int) -> int | None:
    return int(value) if value.isdecimal() and at_least <= int(value) <= MAX_ITERATIONS else None


async def _usual_settings(
    services: Services, viewer: Viewer, session: AsyncSession, job: JobOut, base_name: str
) -> Mapping[str, Any]:
    """Return the settings without overrides, or {} if no engine announced them or the job is for another base."""
    try:
        base = await system.read_base(services, viewer.who, session)
    except Unavailable:
        return {}
    if base.name != base_name:
        return {}
    return settings_of(base.presets, base.methods, method=job.method, preset=job.preset) or {}
