"""Record refused requests in the audit log, where an operator should know of them.

A row is written after the answer is sent, in a transaction of its own: the request's was rolled back, and the time of
an answer must not reveal whether an object exists. Each key, and all unknown callers together, get at most sixty rows
a minute, so that a flood of refused requests does not flood the log.
"""

from collections.abc import Iterable
from uuid import UUID

import structlog
from fastapi import Request
from sqlalchemy import or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.background import BackgroundTask

from api.auth import Caller
from api.domain import audit, keys
from api.domain.errors import DomainError, Forbidden, NotFound, Unauthorized
from api.domain.tables import ApiKey, Concept, Image, Job, Webhook
from api.services import services_of

log = structlog.get_logger()

ROWS_PER_MINUTE = 60
_UNKNOWN_CALLER = UUID(int=0)
_ACTIONS = {
    "missing_scope": "access.refuse",
    "prompt_refused": "prompt.refuse",
    "class_noun_refused": "prompt.refuse",
    "reference_refused": "image.refuse",
    "image_refused": "image.refuse",
}
"""The audit action for each error code. The row's object is the key that asked."""


def recording(request: Request, error: DomainError) -> BackgroundTask | None:
    """Return the task that records this error after the answer; None for an error that is not recorded."""
    who: Caller | None = getattr(request.state, "caller", None)
    if isinstance(error, Unauthorized):
        _, _, text = request.headers.get("authorization", "").partition(" ")
        digest = keys.parse(text.strip())
        return None if digest is None else BackgroundTask(_record_dead_key, request, digest)
    if who is None:
        return None
    if isinstance(error, NotFound):
        ids = {*_ids(request.path_params.values()), *_ids([error.object_id])}
        return BackgroundTask(_record_foreign_ids, request, who, ids) if ids else None
    action = _ACTIONS.get(error.code)
    if action is None:
        return None
    return BackgroundTask(
        _record, request, who.api_key_id, action, error.code, object_id=who.api_key_id, owner_id=who.owner_id
    )  # fmt: skip


def recording_of_sign_in(request: Request, text: str, error: Unauthorized | Forbidden) -> BackgroundTask:
    """Return the task that records a refused sign-in at the dashboard."""
    return BackgroundTask(_record_sign_in, request, keys.parse(text), error.code)


async def _record_foreign_ids(request: Request, who: Caller, ids: set[UUID]) -> None:
    """Record which of these ids belong to another owner. An id that belongs to nobody is not recorded."""
    tables = (Concept, Job, Image, ApiKey, Webhook)
    found = union_all(
        *(select(table.id, table.owner_id).where(table.id.in_(ids), table.owner_id != who.owner_id)
          for table in tables)
    )  # fmt: skip
    async with services_of(request).sessions() as session:
        foreign = (await session.execute(found)).all()
    for object_id, owner_id in foreign:
        await _record(
            request, who.api_key_id, "access.refuse", "not_theirs", object_id=object_id, owner_id=owner_id
        )  # fmt: skip


async def _record_dead_key(request: Request, digest: bytes) -> None:
    """Record the use of a key that is revoked, rotated or expired."""
    async with services_of(request).sessions() as session:
        key = await _key_with(session, digest)
    if key is not None:
        await _record(request, None, "key.refuse", "not_live", object_id=key.id, owner_id=key.owner_id)


async def _record_sign_in(request: Request, digest: bytes | None, code: str) -> None:
    async with services_of(request).sessions() as session:
        key = None if digest is None else await _key_with(session, digest)
    object_id, owner_id = (key.id, key.owner_id) if key else (None, None)
    await _record(request, None, "sign_in.refuse", code, object_id=object_id, owner_id=owner_id)


async def _key_with(session: AsyncSession, digest: bytes) -> ApiKey | None:
    has_it = or_(ApiKey.secret_sha256 == digest, ApiKey.previous_sha256 == digest)
    return await session.scalar(select(ApiKey).where(has_it))


async def _record(
    request: Request,
    api_key_id: UUID | None,
    action: str,
    outcome: str,
    *,
    object_id: UUID | None,
    owner_id: UUID | None,
) -> None:
    request_id = request.state.request_id
    log.warning("request.refused", action=action, outcome=outcome, object_id=str(object_id), request_id=request_id)
    services = services_of(request)
    taken = await services.limiter.take("refusals", api_key_id or _UNKNOWN_CALLER, quota=ROWS_PER_MINUTE, cost=1)
    if taken is not None and not taken[0]:
        return
    async with services.sessions.begin() as session:
        await session.run_sync(
            audit.record,
            action=action,
            object_id=object_id,
            outcome=outcome,
            owner_id=owner_id,
            api_key_id=api_key_id,
            request_id=request_id,
        )


def _ids(values: Iterable[object]) -> Iterable[UUID]:
    for value in values:
        if isinstance(value, UUID):
            yield value
            continue
        try:
            yield UUID(str(value))
        except ValueError:
            continue
