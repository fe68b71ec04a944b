"""The overview page: newest images, problems, running jobs, latency, machines."""

from itertools import zip_longest

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.concept_schemas import ConceptOut
from api.dashboard.page import PageRoute, ViewerDep, page
from api.routes import concepts, jobs
from api.routes.overview import read_overview
from api.services import ServicesDep, SessionDep

PAGE_SIZE = 8
IMAGES = 4

router = APIRouter(route_class=PageRoute)


@router.get("/dashboard")
async def overview(request: Request, viewer: ViewerDep, services: ServicesDep, session: SessionDep) -> Response:
    found = await read_overview(viewer.who, session)
    active = await jobs.active_jobs(session, viewer.who, limit=PAGE_SIZE)
    newest = (await jobs.list_jobs(viewer.who, session, limit=5)).items if not active else []
    ready = (await concepts.list_concepts(viewer.who, session, state="ready", limit=IMAGES)).items
    return page(
        request,
        viewer,
        "overview.html",
        overview=found,
        active=active,
        newest=newest,
        ready=ready,
        images=_newest_images(ready),
        photo_count=services.settings.reference_count("photo"),
    )


def _newest_images(newest: list[ConceptOut]) -> list[tuple[ConceptOut, str]]:
    """Return up to four images, each with its concept, of as many of these concepts as possible."""
    rounds = zip_longest(*(concept.image_urls for concept in newest))
    return [(concept, url) for urls in rounds for concept, url in zip(newest, urls, strict=True) if url][:IMAGES]
