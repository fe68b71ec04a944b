"""Liveness and readiness of the api."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from api.db import Sessions
from api.domain.errors import DomainError
from api.domain.storage import Storage
from api.services import Services, ServicesDep

router = APIRouter(tags=["health"])
_SECONDS = 3
_FAILED = {"decoder": "cannot start"}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process is alive. It does not check the other parts."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "a part does not answer; the body says which"}})
async def readyz(services: ServicesDep) -> JSONResponse:
    """Check the database's tables, the object store, an engine, and the decoder of uploads. 503 while it stops."""
    if services.is_stopping():
        return JSONResponse({"status": "stopping", "parts": {}}, 503)
    found = await answering_parts(services)
    parts = {name: "ok" if fine else _FAILED.get(name, "unreachable") for name, fine in found.items()}
    ready = all(found.values())
    return JSONResponse({"status": "ready" if ready else "not ready", "parts": parts}, 200 if ready else 503)


async def answering_parts(services: Services) -> dict[str, bool]:
    """Return for each part whether it answers in time. The decoder answers if its process starts."""
    names = ("database", "storage", "engine", "decoder")
    found = await asyncio.gather(
        _in_time(_database(services.sessions)),
        _in_time(_storage(services.storage)),
        _in_time(services.engines.ready()),
        _in_time(services.decoder.ready()),
    )
    return dict(zip(names, found, strict=True))


async def _in_time(check: Coroutine[Any, Any, bool]) -> bool:
    """Return the result, or False after the timeout. The task is not cancelled: with a frozen part that hangs too."""
    task = asyncio.ensure_future(check)
    await asyncio.wait({task}, timeout=_SECONDS)
    return task.done() and task.result()


async def _database(sessions: Sessions) -> bool:
    try:
        async with sessions() as session:
            await session.execute(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError:
        return False
    return True


async def _storage(storage: Storage) -> bool:
    try:
        await run_in_threadpool(storage.probe)
    except DomainError:
        return False
    return True
