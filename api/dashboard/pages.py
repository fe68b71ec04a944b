"""The dashboard: server-rendered pages that call the functions of the public API's routes."""

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from api.dashboard import concepts, jobs, new_concept, operations, overview, playground, sign_in, studies, verify
from api.dashboard.page import HERE
from api.public_address import link

router = APIRouter(include_in_schema=False)
for _module in (sign_in, overview, jobs, new_concept, concepts, studies, playground, verify, operations):
    router.include_router(_module.router)


class _Static(StaticFiles):
    """Static files that the browser revalidates at each use, so that no page runs an old script after an upgrade."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.setdefault("Cache-Control", "no-cache")
        return response


def install_static(app: FastAPI) -> None:
    app.mount("/static", _Static(directory=HERE / "static"), name="static")


@router.get("/")
async def to_dashboard() -> Response:
    return RedirectResponse(link("/dashboard"), 303)


@router.get("/favicon.ico")
async def favicon() -> Response:
    return FileResponse(HERE / "static" / "favicon.svg", media_type="image/svg+xml")
