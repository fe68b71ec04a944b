"""The playground: generate images from a prompt."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.dashboard.page import PageRoute, ViewerDep, page
from api.domain.errors import Unavailable
from api.routes import concepts, system
from api.services import ServicesDep, SessionDep

router = APIRouter(prefix="/dashboard", route_class=PageRoute)


@router.get("/playground")
async def playground(request: Request, viewer: ViewerDep, services: ServicesDep, session: SessionDep) -> Response:
    """Render the form. The script fills it in from the address: concept, prompt, seed, count, version, decoder."""
    found = await concepts.list_concepts(viewer.who, session, limit=100, state="ready")
    return page(
        request,
        viewer,
        "playground.html",
        concepts=found.items,
        has_fast_decoder=await _has_fast_decoder(services, viewer, session),
        default_decoder=services.settings.decoder,
    )


async def _has_fast_decoder(services: ServicesDep, viewer: ViewerDep, session: SessionDep) -> bool:
    try:
        return (await system.read_base(services, viewer.who, session)).no_fast_decoder is None
    except Unavailable:  # no engine has announced its base yet
        return False
