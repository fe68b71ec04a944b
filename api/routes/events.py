"""A job as it happens: server-sent events, told from the rows that the database appends with each change."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Reader
from api.db import Sessions
from api.domain.errors import NotFound
from api.domain.tables import Job, JobEvent
from api.services import ServicesDep, SessionDep

LOOK_SECONDS = 0.5
"""Trainers tell their progress once a second."""
HEARTBEAT_SECONDS = 15.0
"""Proxies close a connection that says nothing for a minute, some for half of one."""
AT_ONCE = 500
"""Events of one look; a training of an hour has some thousands."""


router = APIRouter(tags=["jobs"])

_EXAMPLE = """\
event: state
data: {"state": "running", "attempt": 1, "cancel_requested": false, "error": null}
id: 41

event: progress
data: {"stage": "distillation", "step": 300, "total_steps": 1200, "eta_seconds": 181.5, "losses": {"rec": 0.041}}
id: 42

event: preview
data: {"step": 300, "url": "/v1/jobs/0198c0de-7e57-7000-8000-000000000002/preview"}
id: 43

event: log
data: {"at": "2026-01-31T08:15:00Z", "fence": 1, "level": "info", "text": "checkpoint.committed step=300 size=7724112"}
id: 44
"""

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`state`, `progress`, `preview` and `log`; ends after the final state; comments keep it alive",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    204: {"description": "the job is over and `Last-Event-ID` is its last event: a browser asks no more then"},
}


@dataclass(frozen=True)
class _News:
    events: list[JobEvent]
    is_over: bool
    """And nothing follows these events."""


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse, responses=_ANSWERS)
async def watch_job(
    job_id: UUID,
    services: ServicesDep,
    who: Reader,
    session: SessionDep,
    last_event_id: Annotated[
        int,
        Header(alias="Last-Event-ID", ge=0, le=2**63 - 1, description="go on after this event; a browser sends it"),
    ] = 0,
) -> Response:
    """Watch a job: everything that happened since its start (or since `Last-Event-ID`), then what happens next."""
    news = await _look(session, who.owner_id, job_id, last_event_id)
    if news is None:
        raise NotFound(f"there is no job {job_id} here; GET /v1/jobs lists yours", "no_such_job")
    if news.is_over and not news.events:
        return Response(status_code=204)
    stream = _stream(services.sessions, services.is_stopping, who.owner_id, job_id, last_event_id)
    # nginx would keep the events until its buffer is full
    return EventSourceResponse(stream, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def _stream(
    sessions: Sessions, is_stopping: Callable[[], bool], owner_id: UUID, job_id: UUID, last_event_id: int
) -> AsyncIterator[bytes]:
    """Holds no connection between two looks. Ends with the job, with its erasure, or with the server."""
    spoke_at = time.monotonic()
    while not is_stopping():
        async with sessions() as session:
            news = await _look(session, owner_id, job_id, last_event_id)
        if news is None:
            return
        for event in news.events:
            yield _told(event)
            last_event_id, spoke_at = event.id, time.monotonic()
        if news.is_over:
            return
        if time.monotonic() - spoke_at >= HEARTBEAT_SECONDS:
            yield KEEPALIVE_COMMENT
            spoke_at = time.monotonic()
        if len(news.events) < AT_ONCE:
            await asyncio.sleep(LOOK_SECONDS)


async def _look(session: AsyncSession, owner_id: UUID, job_id: UUID, last_event_id: int) -> _News | None:
    """None without such a job. One SELECT: the state and the events are of the same moment."""
    rows = (
        await session.execute(
            select(Job.state, JobEvent)
            .outerjoin(JobEvent, (JobEvent.job_id == Job.id) & (JobEvent.id > last_event_id))
            .where(Job.owner_id == owner_id, Job.id == job_id)
            .order_by(JobEvent.id)
            .limit(AT_ONCE)
        )
    ).all()
    if not rows:
        return None
    return _News([event for _, event in rows if event is not None], rows[0].state.is_final and len(rows) < AT_ONCE)


def _told(event: JobEvent) -> bytes:
    data = event.data | ({"url": f"/v1/jobs/{event.job_id}/preview"} if event.kind == "preview" else {})
    return format_sse_event(event=event.kind, data_str=json.dumps(data), id=str(event.id))
