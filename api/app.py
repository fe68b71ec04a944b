"""The REST service: `create_app(settings)`."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from sqlalchemy.ext.asyncio import async_sessionmaker

from api import db, errors
from api.auth import bearer
from api.dashboard import pages
from api.dispatch import create_doorbell
from api.docs_page import install_docs_page
from api.domain.denied_words import DeniedWords
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.engine_client import EngineClient
from api.image_check import ImageCheck
from api.json_bodies import without_repeated_keys
from api.limits import RateLimiter, count_request
from api.middleware import RequestFrame
from api.openapi import describe
from api.routes import (
    audit,
    concepts,
    downloads,
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
    system,
    webhooks,
)
from api.schemas import Problem
from api.shedding import Shedding
from api.tally import Tally

DESCRIPTION = """\
Put your own thing into pictures. Hand in {photos} of it and its class noun; a training of some minutes makes it a
**concept**; then `<concept>` in a prompt stands for it, and a picture takes one step.

Every route needs `Authorization: Bearer opk_live_…`. Refusals are `application/problem+json` with a stable `code` and a
`detail` that says what to do.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Connections are opened when the server starts, not here."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = db.create_engine(settings)
        state = app.state
        state.settings = settings
        state.sessions = async_sessionmaker(engine, expire_on_commit=False)
        state.storage = Storage(settings, impatient=True)
        state.engines = EngineClient(settings.engine_urls, timeout_seconds=settings.generate_timeout_seconds)
        state.limiter = RateLimiter(settings.redis_url)
        state.doorbell = create_doorbell(settings)
        state.denied_words = DeniedWords.of(settings.denied_words)
        state.image_check = ImageCheck(settings)
        state.decoders = asyncio.Semaphore(max(2, os.cpu_count() or 2))
        state.tally = Tally(state.sessions)
        counting = asyncio.create_task(state.tally.keep_writing())
        yield
        counting.cancel()
        await state.tally.write()
        await state.engines.close()
        await state.limiter.close()
        state.doorbell.close()
        await engine.dispose()

    app = FastAPI(
        title="OPAD",
        version="0.1.0",
        description=DESCRIPTION.format(photos=settings.reference_count("photo")),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.is_stopping = lambda: False
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 401, 403, 404, 408, 409, 413, 422, 429, 503, 504)
    }
    v1 = APIRouter(
        dependencies=[Depends(bearer), Depends(count_request), Depends(without_repeated_keys)], responses=problems
    )
    for module in (
        concepts,
        downloads,
        jobs,
        job_history,
        events,
        generate,
        images,
        openai,
        preferences,
        webhooks,
        keys,
        audit,
        overview,
        storage,
        system,
    ):
        v1.include_router(module.router)
    app.include_router(v1, prefix="/v1")
    aliases = APIRouter(include_in_schema=False, dependencies=[Depends(count_request), Depends(without_repeated_keys)])
    aliases.add_api_route("/concepts", concepts.create_concept, methods=["POST"], status_code=202)
    aliases.add_api_route("/generate", generate.generate, methods=["POST"], response_model=None)
    app.include_router(aliases)
    app.include_router(health.router)
    app.include_router(metrics.router, responses=problems)
    app.include_router(pages.router)
    pages.install_static(app)
    describe(app, settings)
    install_docs_page(app)
    errors.install(app)
    app.add_middleware(Shedding, engines=len(settings.engine_urls))
    app.add_middleware(
        RequestFrame,
        upload_bytes=settings.upload_bytes,
        body_seconds=settings.body_seconds,
    )
    return app
