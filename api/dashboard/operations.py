"""The pages Access, Webhooks, Storage and System."""

import asyncio
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncSession

from api.dashboard.page import PageRoute, Viewer, ViewerDep, page
from api.domain.errors import Forbidden
from api.routes import audit, keys, storage, system, webhooks
from api.routes.overview import WorkerOut, read_workers
from api.services import ServicesDep, SessionDep

EVENTS_PER_PAGE = 50

router = APIRouter(prefix="/dashboard", route_class=PageRoute)


def _require_admin(viewer: Viewer) -> None:
    if not viewer.who.may("admin"):
        raise Forbidden("this page needs a key with the scope 'admin'; sign in with one", "missing_scope")


@router.get("/access")
async def access(
    request: Request,
    viewer: ViewerDep,
    session: SessionDep,
    action: str = "",
    cursor: int | None = None,
    keys_after: UUID | None = None,
) -> Response:
    _require_admin(viewer)
    events = await audit.list_audit_events(
        viewer.who, session, action=action[:80] or None, limit=EVENTS_PER_PAGE, cursor=cursor
    )
    query = {"action": action} if action else {}
    return page(
        request,
        viewer,
        "access.html",
        keys=await keys.list_keys(viewer.who, session, limit=25, cursor=keys_after),
        events=events.items,
        next=f"?{urlencode({**query, 'cursor': events.next})}#log" if events.next else None,
        action=action,
        is_later=cursor is not None,
    )


@router.get("/webhooks")
async def webhook_list(request: Request, viewer: ViewerDep, session: SessionDep) -> Response:
    hooks = (await webhooks.list_webhooks(viewer.who, session)).items
    messages = {
        hook.id: (await webhooks.list_deliveries(hook.id, viewer.who, session, limit=1)).items for hook in hooks
    }
    return page(request, viewer, "webhooks.html", hooks=hooks, newest=messages)


@router.get("/webhooks/{webhook_id}")
async def webhook_detail(
    request: Request, viewer: ViewerDep, session: SessionDep, webhook_id: UUID, cursor: int | None = None
) -> Response:
    found = await webhooks.list_deliveries(webhook_id, viewer.who, session, limit=25, cursor=cursor)
    return page(
        request,
        viewer,
        "webhook.html",
        hook=await webhooks.read_webhook(webhook_id, viewer.who, session),
        deliveries=found.items,
        next=f"?cursor={found.next}" if found.next else None,
        is_later=cursor is not None,
    )


@router.get("/storage")
async def storage_page(request: Request, viewer: ViewerDep, services: ServicesDep, session: SessionDep) -> Response:
    storage.require_operator(viewer.who)
    stored, retention = await asyncio.gather(
        storage.read_storage(services, viewer.who), storage.preview_retention(services, viewer.who, session)
    )
    return page(request, viewer, "storage.html", stored=stored, retention=retention)


@router.get("/system")
async def system_page(request: Request, viewer: ViewerDep, services: ServicesDep, session: SessionDep) -> Response:
    found = await system.read_system(request, services, viewer.who, session)
    return page(request, viewer, "system.html", system=found, check=found.base_check, engines=await _engines(session))


@router.get("/system/base-check")
async def system_base_check(request: Request, viewer: ViewerDep, session: SessionDep) -> Response:
    """Render the check of the base's weights, which changes by itself."""
    _require_admin(viewer)
    storage.require_operator(viewer.who)
    return page(request, viewer, "base_check.html", check=await system.read_base_check(session))


@router.get("/system/engines")
async def system_engines(request: Request, viewer: ViewerDep, session: SessionDep) -> Response:
    """Render the part of the page System that changes by itself."""
    _require_admin(viewer)
    storage.require_operator(viewer.who)
    return page(request, viewer, "engines.html", engines=await _engines(session))


async def _engines(session: AsyncSession) -> list[WorkerOut]:
    return [worker for worker in await read_workers(session) if worker.kind == "engine"]
