"""The admin dashboard: server-rendered pages over the functions that answer the public API's routes."""

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from api.dashboard import concepts, jobs, new_concept, operations, overview, playground, sign_in
from api.dashboard.page import HERE

router = APIRouter(include_in_schema=False)
for _module in (sign_in, overview, jobs, new_concept, concepts, playground, operations):
    router.include_router(_module.router)


class _Static(StaticFiles):
    """Asked about at each use: after an upgrade no page runs with an old script."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.setdefault("Cache-Control", "no-cache")
        return response


def install_static(app: FastAPI) -> None:
    app.mount("/static", _Static(directory=HERE / "static"), name="static")


@router.get("/")
async def root() -> Response:
    return RedirectResponse("/dashboard", 303)


@router.get("/favicon.ico")
async def favicon() -> Response:
    return FileResponse(HERE / "static" / "favicon.svg", media_type="image/svg+xml")
