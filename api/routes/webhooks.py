"""Webhooks: get a message when a job ends."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import ConfigDict, Field
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from api.audit import TrailDep
from api.auth import Caller, Reader, Trainer
from api.domain import webhook_address, webhooks
from api.domain.errors import Conflict, NotFound
from api.domain.tables import Owner, Webhook, WebhookDelivery
from api.public_address import link
from api.schemas import In, Out
from api.services import ServicesDep, SessionDep

router = APIRouter(tags=["webhooks"])

MAX_WEBHOOKS = 20
"""Webhooks of one owner: each adds a message to every end of a job."""
_DAY_SECONDS = 24 * 3600
_EXAMPLE: dict[str, Any] = {
    "id": "0198c0de-7e57-7000-8000-00000000000b",
    "url": "https://example.org/opad",
    "events": ["job.succeeded", "job.failed", "job.cancelled"],
    "created_at": "2026-11-22T21:00:00Z",
    "disabled_at": None,
}

Event = Literal["job.succeeded", "job.failed", "job.cancelled"]
_ALL_EVENTS: tuple[Event, ...] = ("job.succeeded", "job.failed", "job.cancelled")


class WebhookIn(In):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"url": "https://example.org/opad", "events": ["job.succeeded", "job.failed"]}]}
    )

    url: str = Field(
        max_length=2000, description="an https URL; messages are sent by POST, and redirects are not followed"
    )
    events: list[Event] = Field(min_length=1, default_factory=lambda: list(_ALL_EVENTS))


class SecretRotation(In):
    model_config = ConfigDict(json_schema_extra={"examples": [{"grace_seconds": 3600}]})

    grace_seconds: int = Field(
        _DAY_SECONDS, ge=0, le=7 * _DAY_SECONDS, description="how long messages carry both signatures"
    )


class WebhookOut(Out):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: UUID
    url: str
    events: list[str]
    created_at: datetime
    disabled_at: datetime | None = Field(description="when the receiver answered 410 Gone")

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        return cls(**_fields(webhook))


class WebhookMade(WebhookOut):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{**_EXAMPLE, "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDb2J0cmV3ZWI="}],
        }
    )

    secret: str = Field(description="the secret to verify messages with (standardwebhooks.com), shown only once")

    @classmethod
    def of_new(cls, webhook: Webhook) -> Self:
        return cls(**_fields(webhook), secret=webhook.secret)


class WebhookList(Out):
    items: list[WebhookOut]


class DeliveryOut(Out):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "5c9f1c8e-4f5e-4d39-9a43-0c6c0f0f8a11",
                    "message_id": "msg_5c9f1c8e4f5e4d399a430c6c0f0f8a11",
                    "event": "job.succeeded",
                    "payload": {
                        "type": "job.succeeded",
                        "timestamp": "2026-11-22T21:05:00.123456+00:00",
                        "data": {
                            "job_id": "0198c0de-7e57-7000-8000-000000000002",
                            "concept_id": "0198c0de-7e57-7000-8000-000000000001",
                            "version": 1,
                            "state": "succeeded",
                            "error": None,
                        },
                    },
                    "state": "pending",
                    "log": [{"at": "2026-11-22T21:05:01.010+00:00", "status": 503, "error": None, "ms": 84}],
                    "next_try_at": "2026-11-22T21:05:06Z",
                    "created_at": "2026-11-22T21:05:00Z",
                }
            ]
        }
    )

    id: UUID
    message_id: str = Field(description="the header webhook-id, the same at every try: use it to drop duplicates")
    event: str
    payload: dict[str, Any]
    state: Literal["pending", "delivered", "failed"]
    log: list[dict[str, Any]] = Field(description="every try: time, status or error, milliseconds")
    next_try_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, delivery: WebhookDelivery) -> Self:
        return cls(
            id=delivery.id,
            message_id=f"msg_{delivery.id.hex}",
            event=delivery.event,
            payload=delivery.payload,
            state=delivery.state,  # type: ignore[arg-type]  # a text column of these three
            log=delivery.log,
            next_try_at=delivery.next_try_at if delivery.state == "pending" else None,
            created_at=delivery.created_at,
        )


class DeliveryPage(Out):
    items: list[DeliveryOut]
    next: int | None = Field(description="pass it as `cursor` to get the next page; null on the last page")


def _fields(webhook: Webhook) -> dict[str, Any]:
    names = ("id", "url", "events", "created_at", "disabled_at")
    return {name: getattr(webhook, name) for name in names}


async def _find(session: AsyncSession, who: Caller, webhook_id: UUID, *, lock: bool = False) -> Webhook:
    query = select(Webhook).where(Webhook.owner_id == who.owner_id, Webhook.id == webhook_id)
    found = await session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise NotFound(f"there is no webhook {webhook_id} here; GET /v1/webhooks lists yours", "no_such_webhook")
    return found


@router.post("/webhooks", status_code=201, response_model=WebhookMade)
async def create_webhook(
    body: WebhookIn,
    services: ServicesDep,
    response: Response,
    who: Trainer,
    session: SessionDep,
    trail: TrailDep,
) -> WebhookMade:
    """Create a webhook: signed messages (Standard Webhooks) when your jobs end. Only this answer has the secret."""
    private_allowed = services.settings.webhooks_to_private_addresses
    parts = webhook_address.split(body.url, private_allowed=private_allowed)
    await run_in_threadpool(
        webhook_address.resolve, parts.hostname or "", parts.port or 443, private_allowed=private_allowed
    )
    await session.execute(select(Owner.id).where(Owner.id == who.owner_id).with_for_update(key_share=True))
    have = await session.scalar(select(func.count()).select_from(Webhook).where(Webhook.owner_id == who.owner_id))
    if have is not None and have >= MAX_WEBHOOKS:
        raise Conflict(f"you have {have} webhooks, the maximum; delete one", "webhook_quota")
    webhook = Webhook(
        owner_id=who.owner_id,
        url=body.url,
        events=[event for event in webhooks.JOB_EVENTS if event in body.events],
        secret=webhooks.new_secret(),
    )
    session.add(webhook)
    await session.flush()
    made = WebhookMade.of_new(webhook)
    response.headers.update({"Location": link(f"/v1/webhooks/{webhook.id}"), "Cache-Control": "no-store"})
    await trail.record("webhook.create", webhook.id, "created")
    return made


@router.get("/webhooks", response_model=WebhookList)
async def list_webhooks(who: Reader, session: SessionDep) -> WebhookList:
    """List your webhooks, newest first, without their secrets."""
    found = await session.scalars(
        select(Webhook).where(Webhook.owner_id == who.owner_id).order_by(Webhook.id.desc())
    )  # fmt: skip
    return WebhookList(items=[WebhookOut.of(webhook) for webhook in found])


@router.get("/webhooks/{webhook_id}", response_model=WebhookOut)
async def read_webhook(webhook_id: UUID, who: Reader, session: SessionDep) -> WebhookOut:
    """Read one webhook, without its secret."""
    return WebhookOut.of(await _find(session, who, webhook_id))


@router.delete("/webhooks/{webhook_id}", status_code=204)
async def delete_webhook(webhook_id: UUID, who: Trainer, session: SessionDep, trail: TrailDep) -> None:
    """Delete a webhook with its log. Pending messages are not sent."""
    webhook = await _find(session, who, webhook_id, lock=True)
    await session.execute(delete(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id))
    await session.delete(webhook)
    await session.flush()
    await trail.record("webhook.delete", webhook_id, "deleted")


@router.post("/webhooks/{webhook_id}/rotate", response_model=WebhookMade)
async def rotate_webhook_secret(
    webhook_id: UUID, body: SecretRotation, response: Response, who: Trainer, session: SessionDep, trail: TrailDep
) -> WebhookMade:
    """Give a webhook a new secret. For `grace_seconds` messages are signed with the old one too."""
    webhook = await _find(session, who, webhook_id, lock=True)
    webhook.previous_secret = webhook.secret if body.grace_seconds else None
    webhook.previous_until = await session.scalar(select(func.now() + timedelta(seconds=body.grace_seconds)))
    webhook.secret = webhooks.new_secret()
    await session.flush()
    made = WebhookMade.of_new(webhook)
    response.headers["Cache-Control"] = "no-store"
    await trail.record("webhook.rotate", webhook_id, "rotated")
    return made


@router.post("/webhooks/{webhook_id}/ping", status_code=202, response_model=DeliveryOut)
async def ping_webhook(webhook_id: UUID, who: Trainer, session: SessionDep) -> DeliveryOut:
    """Send a message of type `webhook.ping`. The webhook's deliveries show the result."""
    webhook = await _find(session, who, webhook_id, lock=True)
    _refuse_disabled(webhook)
    now: datetime = (await session.execute(select(func.now()))).scalar_one()
    payload = {"type": webhooks.PING, "timestamp": now.isoformat(), "data": {"webhook_id": str(webhook_id)}}
    delivery = WebhookDelivery(webhook_id=webhook_id, event=webhooks.PING, payload=payload)
    session.add(delivery)
    await session.flush()
    await session.refresh(delivery)
    return DeliveryOut.of(delivery)


@router.get("/webhooks/{webhook_id}/deliveries", response_model=DeliveryPage)
async def list_deliveries(
    webhook_id: UUID,
    who: Reader,
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: int | None = None,
) -> DeliveryPage:
    """List the messages of the last 30 days, newest first, each with its tries."""
    await _find(session, who, webhook_id)
    query = (
        select(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook_id)
        .order_by(WebhookDelivery.number.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        query = query.where(WebhookDelivery.number < cursor)
    found = (await session.scalars(query)).all()
    items = [DeliveryOut.of(delivery) for delivery in found[:limit]]
    return DeliveryPage(items=items, next=found[limit - 1].number if len(found) > limit else None)


@router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202, response_model=DeliveryOut)
async def redeliver(webhook_id: UUID, delivery_id: UUID, who: Trainer, session: SessionDep) -> DeliveryOut:
    """Send a message again with the same id, in a new round of tries."""
    webhook = await _find(session, who, webhook_id, lock=True)
    _refuse_disabled(webhook)
    delivery = await session.scalar(
        select(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.id == delivery_id)
        .with_for_update()
    )
    if delivery is None:
        raise NotFound(f"there is no delivery {delivery_id} of this webhook", "no_such_delivery")
    delivery.state, delivery.tries = "pending", 0
    delivery.next_try_at = await session.scalar(select(func.now()))
    await session.flush()
    return DeliveryOut.of(delivery)


def _refuse_disabled(webhook: Webhook) -> None:
    if webhook.disabled_at is not None:
        raise Conflict(
            f"this webhook is disabled: its receiver answered 410 Gone at {webhook.disabled_at:%Y-%m-%d %H:%M} UTC; "
            "delete it and create another",
            "webhook_disabled",
        )
