"""The REST service: `create_app(settings)`."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from api import errors
from api.auth import bearer
from api.dashboard import pages
from api.docs_page import install_docs_page
from api.domain.settings import Settings
from api.head_requests import HeadRequests
from api.json_bodies import without_repeated_keys
from api.limits import count_request
from api.middleware import RequestFrame
from api.openapi import describe
from api.public_address import PublicAddress
from api.routes import (
    audit,
    concepts,
    downloads,
    estimate,
    events,
    generate,
    health,
    images,
    job_history,
    jobs,
    keys,
    metrics,
    openai,
    overview,
    preferences,
    storage,
    studies,
    system,
    verify,
    versions,
    webhooks,
)
from api.schemas import Problem
from api.services import open_services
from api.shedding import LoadShedding, OpenRequests

DESCRIPTION = """\
Generate images of your own thing. Upload {photos} of it and its class noun. A training of some minutes turns them
into a **concept**. Then write `<concept>` in a prompt, and one diffusion step generates an image.

Every route needs `Authorization: Bearer opk_live_…`. Errors are `application/problem+json` with a stable `code` and a
`detail` that says what to do.
"""


def create_app(settings: Settings, *, is_stopping: Callable[[], bool] = lambda: False) -> FastAPI:
    """Create the application. The server opens its connections when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings, is_stopping) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="OPAD",
        version="0.1.0",
        description=DESCRIPTION.format(photos=settings.reference_count("photo")),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        servers=[{"url": settings.public_url}] if settings.public_url else None,
    )
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 401, 403, 404, 408, 409, 413, 422, 429, 503, 504)
    }
    v1 = APIRouter(
        dependencies=[Depends(bearer), Depends(count_request), Depends(without_repeated_keys)], responses=problems
    )
    for module in (
        concepts,
        versions,
        downloads,
        jobs,
        job_history,
        estimate,
        events,
        generate,
        images,
        openai,
        preferences,
        studies,
        webhooks,
        keys,
        audit,
        overview,
        storage,
        system,
    ):
        v1.include_router(module.router)
    app.include_router(v1, prefix="/v1")
    # it counts its requests itself, because it may allow some without a key
    app.include_router(verify.router, prefix="/v1", dependencies=[Depends(bearer)], responses=problems)
    aliases = APIRouter(include_in_schema=False, dependencies=[Depends(count_request), Depends(without_repeated_keys)])
    aliases.add_api_route("/concepts", concepts.create_concept, methods=["POST"], status_code=202)
    aliases.add_api_route("/generate", generate.generate, methods=["POST"], response_model=None)
    app.include_router(aliases)
    app.include_router(health.router)
    app.include_router(metrics.router, responses=problems)
    app.include_router(pages.router)
    pages.install_static(app)
    describe(app, settings)
    install_docs_page(app, settings)
    errors.install(app)
    app.add_middleware(HeadRequests)
    app.add_middleware(LoadShedding, engines=len(settings.engine_urls))
    app.add_middleware(OpenRequests)
    app.add_middleware(
        RequestFrame,
        upload_bytes=settings.upload_bytes,
        body_seconds=settings.body_seconds,
    )
    app.add_middleware(PublicAddress, public_url=settings.public_url)  # the outermost: the others compare paths
    return app
