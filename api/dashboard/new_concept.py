"""The form that creates a concept."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.dashboard.page import PageRoute, ViewerDep, page
from api.domain.consent import STATEMENT
from api.domain.errors import Unavailable
from api.routes import system
from api.services import ServicesDep, SessionDep
from opad_core.reference_images import MAX_MEGAPIXELS, MIN_SIDE, formats

router = APIRouter(prefix="/dashboard", route_class=PageRoute)


@router.get("/concepts/new")
async def new_concept(request: Request, viewer: ViewerDep, services: ServicesDep, session: SessionDep) -> Response:
    try:
        base = await system.read_base(services, viewer.who, session)
    except Unavailable:  # the page shows the form and says that no base is announced
        base = None
    settings = services.settings
    return page(
        request,
        viewer,
        "new_concept.html",
        base=base,
        photo_count=settings.reference_count("photo"),
        formats=formats(heic=services.decoder.heic),
        heic=services.decoder.heic,
        statement=STATEMENT if settings.consent == "ask" else None,
        limits={
            "min_images": settings.min_references,
            "max_images": settings.max_references,
            "max_bytes": settings.max_upload_mb * 1024**2,
            "min_side": MIN_SIDE,
            "max_pixels": MAX_MEGAPIXELS * 1_000_000,
        },
    )
