"""The playground: generate images from a prompt."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.dashboard.page import PageRoute, ViewerDep, page
from api.routes import concepts
from api.services import SessionDep

router = APIRouter(prefix="/dashboard", route_class=PageRoute)


@router.get("/playground")
async def playground(request: Request, viewer: ViewerDep, session: SessionDep) -> Response:
    """Render the form. The script fills it in from the address: concept, prompt, seed, count, version."""
    found = await concepts.list_concepts(viewer.who, session, limit=100, state="ready")
    return page(request, viewer, "playground.html", concepts=found.items)
