"""The pages of concepts, the gallery of stored images and the preference test."""

from collections.abc import Sequence
from typing import get_args
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncSession

from api.concept_schemas import ConceptState
from api.dashboard.page import PageRoute, ViewerDep, page
from api.domain.errors import NotFound, Unavailable
from api.domain.storage import StorageUnavailable
from api.domain.tables import Job, JobState
from api.loopback import curl_for
from api.output_schemas import DownloadOut, Layout
from api.public_address import public_address
from api.routes import concepts, downloads, images, preferences, system
from api.routes.jobs import described_jobs
from api.schemas import JobOut
from api.services import ServicesDep, SessionDep

PAGE_SIZE = 24
STATES: tuple[ConceptState, ...] = ("ready", "running", "queued", "base_changed", "failed", "cancelled")

router = APIRouter(prefix="/dashboard", route_class=PageRoute)


@router.get("/concepts")
async def concept_list(
    request: Request,
    viewer: ViewerDep,
    services: ServicesDep,
    session: SessionDep,
    name: str = "",
    state: str = "",
    cursor: UUID | None = None,
) -> Response:
    found = await concepts.list_concepts(
        viewer.who,
        session,
        name=name[:80] or None,
        state=next((known for known in STATES if known == state), None),
        limit=PAGE_SIZE,
        cursor=cursor,
    )
    chosen = {"name": name, "state": state}
    query = {key: value for key, value in chosen.items() if value}
    return page(
        request,
        viewer,
        "concepts.html",
        concepts=found.items,
        next=f"?{urlencode({**query, 'cursor': found.next})}" if found.next else None,
        chosen=chosen,
        is_filtered=bool(query),
        is_later=cursor is not None,
        states=STATES,
        open_jobs=await _open_jobs(session, [concept.id for concept in found.items]),
        photo_count=services.settings.reference_count("photo"),
    )


async def _open_jobs(session: AsyncSession, concept_ids: Sequence[UUID]) -> dict[UUID, JobOut]:
    """Return the queued or running job of each concept that has one."""
    is_open = Job.state.in_((JobState.queued, JobState.running))
    return {job.concept_id: job for job in await described_jobs(session, Job.concept_id.in_(concept_ids), is_open)}


@router.get("/concepts/{concept_id}")
async def concept_detail(
    request: Request, viewer: ViewerDep, services: ServicesDep, session: SessionDep, concept_id: UUID
) -> Response:
    concept = await concepts.read_concept(concept_id, viewer.who, session)
    files: list[DownloadOut] = []
    if concept.bundle:
        for layout in get_args(Layout):
            try:
                files.append(
                    await downloads.read_bundle(
                        concept_id, concept.bundle.version, services, viewer.who, session, layout=layout
                    )
                )
            except (NotFound, StorageUnavailable):  # older than exports, not kept, lost, or the store does not answer
                continue
    return page(
        request,
        viewer,
        "concept.html",
        concept=concept,
        limits=await _limits(services, viewer, session),
        files=files,
        address=public_address(request, services.settings),
        curl=curl_for(public_address(request, services.settings)),
        stored=(await images.list_images(services, viewer.who, session, concept_id=concept_id, limit=6)).items,
    )


async def _limits(services: ServicesDep, viewer: ViewerDep, session: SessionDep) -> str | None:
    try:
        return (await system.read_base(services, viewer.who, session)).limits
    except Unavailable:  # no engine has announced its base yet
        return None


@router.get("/gallery")
async def gallery(
    request: Request,
    viewer: ViewerDep,
    services: ServicesDep,
    session: SessionDep,
    concept: str = "",
    cursor: UUID | None = None,
) -> Response:
    known = (await concepts.list_concepts(viewer.who, session, limit=100)).items
    chosen = next((one.id for one in known if str(one.id) == concept), None)
    found = await images.list_images(
        services, viewer.who, session, concept_id=chosen, limit=PAGE_SIZE * 2, cursor=cursor
    )
    query = {"concept": concept} if chosen else {}
    return page(
        request,
        viewer,
        "gallery.html",
        images=found.items,
        concepts=known,
        chosen=str(chosen or ""),
        next=f"?{urlencode({**query, 'cursor': found.next})}" if found.next else None,
        is_later=cursor is not None,
    )


@router.get("/preference")
async def preference(request: Request, viewer: ViewerDep, session: SessionDep, concept: str = "") -> Response:
    known = (await concepts.list_concepts(viewer.who, session, state="ready", limit=100)).items
    chosen = next((one for one in known if str(one.id) == concept), known[0] if known else None)
    if chosen is None:
        return page(request, viewer, "preference.html", concepts=known, chosen=None)
    jobs = (await concepts.read_concept(chosen.id, viewer.who, session)).jobs
    return page(
        request,
        viewer,
        "preference.html",
        concepts=known,
        chosen=chosen,
        jobs={job.version: job for job in jobs},
        counted=await preferences.read_preferences(chosen.id, viewer.who, session),
    )
