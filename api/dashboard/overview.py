"""The overview page: problems, running jobs, latency, engines and trainers."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.dashboard.page import PageRoute, ViewerDep, page
from api.domain.tables import JobState
from api.routes import jobs
from api.routes.overview import read_overview
from api.services import ServicesDep, SessionDep

PAGE_SIZE = 8

router = APIRouter(route_class=PageRoute)


@router.get("/dashboard")
async def overview(request: Request, viewer: ViewerDep, services: ServicesDep, session: SessionDep) -> Response:
    found = await read_overview(viewer.who, session)
    active = [
        job
        for state in (JobState.running, JobState.queued)
        for job in (await jobs.list_jobs(viewer.who, session, state=state, limit=PAGE_SIZE)).items
    ]
    newest = (await jobs.list_jobs(viewer.who, session, limit=5)).items if not active else []
    return page(
        request,
        viewer,
        "overview.html",
        overview=found,
        active=active[:PAGE_SIZE],
        newest=newest,
        photo_count=services.settings.reference_count("photo"),
    )
