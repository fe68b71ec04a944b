"""Liveness and readiness of the api."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from api.db import Sessions
from api.domain import clocks
from api.domain.errors import DomainError
from api.domain.storage import Storage
from api.domain.tables import Heartbeat
from api.domain.tables.heartbeat import HEARTBEAT_TIMEOUT
from api.services import Services, ServicesDep

T = TypeVar("T")

router = APIRouter(tags=["health"])
_SECONDS = 3
_FAILED = {"decoder": "cannot start"}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process is alive. It does not check the other parts."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "a part does not answer; the body says which"}})
async def readyz(services: ServicesDep) -> JSONResponse:
    """Check the database's tables, the object store, an engine, and the decoder of uploads. 503 while it stops.

    `clocks` says whose clock is wrong; the service works all the same.
    """
    if services.is_stopping():
        return JSONResponse({"status": "stopping", "parts": {}, "clocks": []}, 503)
    found = await answering_parts(services)
    parts = {name: "ok" if fine else _FAILED.get(name, "unreachable") for name, fine in found.items()}
    ready = all(found.values())
    wrong = await wrong_clocks(services) if found["database"] else []
    return JSONResponse(
        {"status": "ready" if ready else "not ready", "parts": parts, "clocks": wrong}, 200 if ready else 503
    )


async def answering_parts(services: Services) -> dict[str, bool]:
    """Return for each part whether it answers in time. The decoder answers if its process starts."""
    names = ("database", "storage", "engine", "decoder")
    found = await asyncio.gather(
        _in_time(_database(services.sessions), otherwise=False),
        _in_time(_storage(services.storage), otherwise=False),
        _in_time(services.engines.ready(), otherwise=False),
        _in_time(services.decoder.ready(), otherwise=False),
    )
    return dict(zip(names, found, strict=True))


async def wrong_clocks(services: Services) -> list[str]:
    """Return a sentence for each wrong clock: of this api, the store, an engine or a trainer host."""
    return await _in_time(_clocks(services), otherwise=[])


async def _clocks(services: Services) -> list[str]:
    alive = Heartbeat.seen_at > func.now() - HEARTBEAT_TIMEOUT
    try:
        async with services.sessions() as session:
            ahead = await session.run_sync(clocks.ahead_of_database)
            workers = select(Heartbeat.kind, Heartbeat.name, Heartbeat.facts["clock_ahead"].as_float()).where(alive)
            rows = (await session.execute(workers.order_by(Heartbeat.kind, Heartbeat.name))).all()
    except SQLAlchemyError:
        return []
    found = [("the api", ahead, "the database"), ("the object store", services.storage.clock.ahead, "the api")]
    found += [(f"the {kind} {name}", theirs or 0.0, "the database") for kind, name, theirs in rows]
    return [f"{clocks.difference(*each)}; set it" for each in found if clocks.is_wrong(each[1])]


async def _in_time(check: Coroutine[Any, Any, T], *, otherwise: T) -> T:
    """Return the result, or `otherwise` after the timeout.

    The task is not cancelled: with a frozen part that hangs too.
    """
    task = asyncio.ensure_future(check)
    await asyncio.wait({task}, timeout=_SECONDS)
    return task.result() if task.done() else otherwise


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
