"""The page on which an image is checked for marks."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.dashboard.page import PageRoute, ViewerDep, page
from api.services import ServicesDep

router = APIRouter(prefix="/dashboard", route_class=PageRoute)


@router.get("/verify")
async def verify(request: Request, viewer: ViewerDep, services: ServicesDep) -> Response:
    return page(request, viewer, "verify.html", heic=services.decoder.heic)
