"""Stream a job's events as server-sent events. They are rows that a trigger adds with each change of the job."""

import asyncio
import json
import time
from collections import Counter
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
from api.domain.errors import NotFound, TooManyRequests
from api.domain.tables import Job, JobEvent
from api.public_address import link
from api.services import ServicesDep, SessionDep

POLL_SECONDS = 0.5
"""Trainers report their progress once a second."""
KEEPALIVE_SECONDS = 15.0
"""Proxies close a silent connection after a minute, some after half a minute."""
MAX_EVENTS = 500
"""Events per query; a training of an hour has some thousands."""
MAX_STREAMS = 20
"""Streams that a key may have open in one api process. Each asks the database twice a second."""


router = APIRouter(tags=["jobs"])

_EXAMPLE = """\
event: state
data: {"state": "running", "attempt": 1, "cancel_requested": false, "error": null}
id: 41

event: progress
data: {"stage": "distillation", "step": 300, "total_steps": 1200, "eta_seconds": 181.5, "losses": {"rec": 0.041},\
 "iterations": [{"step": 299, "losses": {"rec": 0.043}}, {"step": 300, "losses": {"rec": 0.041}}]}
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
        "description": "events `state`, `progress`, `preview` and `log`; the stream ends after the final state",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    204: {"description": "the job has ended and `Last-Event-ID` is its last event; a browser stops reconnecting"},
}


@dataclass(frozen=True)
class _Batch:
    events: list[JobEvent]
    is_over: bool
    """The job has ended and no event follows these."""


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse, responses=_ANSWERS)
async def watch_job(
    job_id: UUID,
    services: ServicesDep,
    who: Reader,
    session: SessionDep,
    last_event_id: Annotated[
        int,
        Header(
            alias="Last-Event-ID",
            ge=0,
            le=2**63 - 1,
            description="continue after this event; a browser sends it by itself",
        ),
    ] = 0,
) -> Response:
    """Watch a job: all events since its start, or after `Last-Event-ID`, then each new event."""
    batch = await _read_batch(session, who.owner_id, job_id, last_event_id)
    if batch is None:
        raise NotFound(f"there is no job {job_id} here; GET /v1/jobs lists yours", "no_such_job")
    if batch.is_over and not batch.events:
        return Response(status_code=204)
    if services.open_streams[who.api_key_id] >= MAX_STREAMS:
        raise TooManyRequests(
            f"this key watches jobs in {MAX_STREAMS} streams already; close one, or poll GET /v1/jobs/{job_id}",
            "too_many_streams",
            retry_after=KEEPALIVE_SECONDS,
        )
    events = _stream(services.sessions, services.is_stopping, who.owner_id, job_id, last_event_id)
    stream = _counted(events, services.open_streams, who.api_key_id)
    # else nginx holds the events back until its buffer is full
    return EventSourceResponse(stream, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def _counted(events: AsyncIterator[bytes], open_streams: Counter[UUID], key_id: UUID) -> AsyncIterator[bytes]:
    """Count the stream from its first event until it ends or the client leaves."""
    open_streams[key_id] += 1
    try:
        async for event in events:
            yield event
    finally:
        open_streams[key_id] -= 1
        if not open_streams[key_id]:
            del open_streams[key_id]


async def _stream(
    sessions: Sessions, is_stopping: Callable[[], bool], owner_id: UUID, job_id: UUID, last_event_id: int
) -> AsyncIterator[bytes]:
    """Stream the events. No connection is held between queries. Ends with the job, its erasure or the server."""
    sent_at = time.monotonic()
    while not is_stopping():
        async with sessions() as session:
            batch = await _read_batch(session, owner_id, job_id, last_event_id)
        if batch is None:
            return
        for event in batch.events:
            yield _encode(event)
            last_event_id, sent_at = event.id, time.monotonic()
        if batch.is_over:
            return
        if time.monotonic() - sent_at >= KEEPALIVE_SECONDS:
            yield KEEPALIVE_COMMENT
            sent_at = time.monotonic()
        if len(batch.events) < MAX_EVENTS:
            await asyncio.sleep(POLL_SECONDS)


async def _read_batch(session: AsyncSession, owner_id: UUID, job_id: UUID, last_event_id: int) -> _Batch | None:
    """Read the next events, or None if there is no such job. One SELECT: state and events are consistent."""
    rows = (
        await session.execute(
            select(Job.state, JobEvent)
            .outerjoin(JobEvent, (JobEvent.job_id == Job.id) & (JobEvent.id > last_event_id))
            .where(Job.owner_id == owner_id, Job.id == job_id)
            .order_by(JobEvent.id)
            .limit(MAX_EVENTS)
        )
    ).all()
    if not rows:
        return None
    return _Batch([event for _, event in rows if event is not None], rows[0].state.is_final and len(rows) < MAX_EVENTS)


def _encode(event: JobEvent) -> bytes:
    data = event.data | ({"url": link(f"/v1/jobs/{event.job_id}/preview")} if event.kind == "preview" else {})
    return format_sse_event(event=event.kind, data_str=json.dumps(data), id=str(event.id))
