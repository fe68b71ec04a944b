"""Webhooks and their messages, until a message is delivered or has failed for good.

A delivery's row is written by the statement that ends its job (`announced` is part of it), so it exists if and only if
the job has ended. `worker.webhooks` sends it at least once, always with the same message id.
"""

import base64
import random
import secrets
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Row,
    Text,
    any_,
    case,
    cast,
    func,
    insert,
    literal,
    null,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import CTE

from api.domain.tables import FINAL_STATES, Webhook, WebhookDelivery

JOB_EVENTS = ("job.succeeded", "job.failed", "job.cancelled")
PING = "webhook.ping"
RETRY_DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
"""The delay before each try, by Standard Webhooks 1.0.0: ten tries over three days."""
_RETENTION = timedelta(days=30)


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def announced(moved: CTE) -> CTE:
    """Build the INSERT of the messages for those jobs in `moved` that reached a final state.

    `moved` has the columns id, state, concept_id, version, owner_id, error_code and error_detail.
    """
    event = literal("job.") + cast(moved.c.state, Text)
    error = func.jsonb_build_object("code", moved.c.error_code, "detail", moved.c.error_detail)
    data = func.jsonb_build_object(
        "job_id", moved.c.id,
        "concept_id", moved.c.concept_id,
        "version", moved.c.version,
        "state", cast(moved.c.state, Text),
        "error", case((moved.c.error_code.is_not(None), error), else_=null()),
    )  # fmt: skip
    payload = type_coerce(func.jsonb_build_object("type", event, "timestamp", func.now(), "data", data), JSONB)
    wanted = (
        select(Webhook.id, event, moved.c.id, payload)
        .join(moved, moved.c.owner_id == Webhook.owner_id)
        .where(moved.c.state.in_(FINAL_STATES), Webhook.disabled_at.is_(None), event == any_(Webhook.events))
    )
    columns = ["webhook_id", "event", "job_id", "payload"]
    return insert(WebhookDelivery).from_select(columns, wanted, include_defaults=False).cte("announced")


def claim_due(session: Session, *, limit: int, busy: timedelta) -> list[tuple[WebhookDelivery, Webhook]]:
    """Claim the due messages. No other sender gets them for as long as `busy`."""
    due = (
        select(WebhookDelivery.id)
        .where(WebhookDelivery.state == "pending", WebhookDelivery.next_try_at <= func.now())
        .order_by(WebhookDelivery.next_try_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    claimed = session.scalars(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == due.c.id)
        .values(next_try_at=func.now() + busy)
        .returning(WebhookDelivery)
    ).all()
    hooks = {
        hook.id: hook
        for hook in session.scalars(select(Webhook).where(Webhook.id.in_({d.webhook_id for d in claimed})))
    }
    return [(delivery, hooks[delivery.webhook_id]) for delivery in claimed]


def record_arrival(session: Session, delivery: WebhookDelivery, entry: dict[str, Any]) -> bool:
    """Mark the message as delivered. Return False if another sender has claimed it since."""
    return _record(session, delivery, entry, state="delivered", next_try_at=None) is not None


def record_failure(
    session: Session, delivery: WebhookDelivery, entry: dict[str, Any], *, retry_after: timedelta | None = None
) -> str | None:
    """Record a failed try. Return the new state: pending, or failed after the last try; None if claimed by another.

    Up to a tenth of the delay is added at random, so that messages that failed together are not retried together.
    """
    tries = delivery.tries + 1
    if tries >= len(RETRY_DELAYS):
        row = _record(session, delivery, entry, state="failed", next_try_at=None)
    else:
        delay = max(RETRY_DELAYS[tries] * random.uniform(1, 1.1), min(retry_after or timedelta(0), RETRY_DELAYS[-1]))
        row = _record(session, delivery, entry, state="pending", next_try_at=func.now() + delay)
    return row.state if row else None


def record_gone(session: Session, delivery: WebhookDelivery, entry: dict[str, Any]) -> None:
    """Disable the webhook after 410 Gone, and fail its pending messages."""
    if _record(session, delivery, entry, state="failed", next_try_at=None) is None:
        return
    session.execute(update(Webhook).where(Webhook.id == delivery.webhook_id).values(disabled_at=func.now()))
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == delivery.webhook_id, WebhookDelivery.state == "pending")
        .values(state="failed", next_try_at=None)
    )


def drop_old(session: Session) -> None:
    session.execute(
        WebhookDelivery.__table__.delete().where(  # type: ignore[attr-defined]  # __table__ is a Table
            WebhookDelivery.state != "pending", WebhookDelivery.created_at < func.now() - _RETENTION
        )
    )


def _record(session: Session, delivery: WebhookDelivery, entry: dict[str, Any], **values: Any) -> Row[Any] | None:
    return session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == delivery.id,
            WebhookDelivery.tries == delivery.tries,
            WebhookDelivery.state == "pending",
        )
        .values(tries=delivery.tries + 1, log=WebhookDelivery.log.op("||")(cast([entry], JSONB)), **values)
        .returning(WebhookDelivery.state)
        .execution_options(synchronize_session=False)
    ).one_or_none()
