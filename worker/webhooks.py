"""Deliver webhook messages at least once, signed as Standard Webhooks, to the address that was checked.

Runs in a thread of the reconciler; several may run at the same time. A delivery may take ten seconds, from the lookup
of the name to the status line. Redirects are not followed. Only the status and Retry-After of the response are read.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import structlog
from sqlalchemy.exc import OperationalError
from standardwebhooks import Webhook as Signer

from api.domain import webhook_address, webhooks
from api.domain.database import Sessions
from api.domain.errors import Invalid
from api.domain.settings import Settings
from api.domain.tables import Webhook, WebhookDelivery

log = structlog.get_logger()

TRY_SECONDS = 10.0
_BATCH = 50
_CLAIM = timedelta(seconds=60)
"""How long a claimed message belongs to its sender. After that another one may send it."""
_CLEANUP_SECONDS = 3600.0


@dataclass(frozen=True)
class Outcome:
    status: int | None
    error: str | None
    retry_after: timedelta | None
    milliseconds: int

    def entry(self) -> dict[str, Any]:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"at": at, "status": self.status, "error": self.error, "ms": self.milliseconds}


def deliver_forever(settings: Settings, sessions: Sessions) -> None:
    cleaned_at = -_CLEANUP_SECONDS
    while True:
        try:
            while deliver_due(settings, sessions):
                pass
            if time.monotonic() - cleaned_at > _CLEANUP_SECONDS:
                with sessions.begin() as db:
                    webhooks.drop_old(db)
                cleaned_at = time.monotonic()
        except OperationalError as error:
            log.warning("webhooks.database_unreachable", error=str(error.orig))
        time.sleep(settings.poll_seconds)


def deliver_due(settings: Settings, sessions: Sessions) -> int:
    """Try each due message once. Return the number of messages."""
    with sessions.begin() as db:
        claimed = webhooks.claim_due(db, limit=_BATCH, busy=_CLAIM)
    if not claimed:
        return 0
    outcomes = asyncio.run(_send_all(claimed, private_allowed=settings.webhooks_to_private_addresses))
    for (delivery, _), outcome in zip(claimed, outcomes, strict=True):
        _record(sessions, delivery, outcome)
    return len(claimed)


async def _send_all(claimed: list[tuple[WebhookDelivery, Webhook]], *, private_allowed: bool) -> list[Outcome]:
    limits = httpx.Limits(max_keepalive_connections=0)  # no keep-alive: two names may share an address
    async with httpx.AsyncClient(trust_env=False, timeout=TRY_SECONDS, limits=limits) as client:
        return await asyncio.gather(
            *(_send(client, delivery, webhook, private_allowed=private_allowed) for delivery, webhook in claimed)
        )


async def _send(
    client: httpx.AsyncClient, delivery: WebhookDelivery, webhook: Webhook, *, private_allowed: bool
) -> Outcome:
    began = time.perf_counter()
    status = error = retry_after = None
    try:
        async with asyncio.timeout(TRY_SECONDS):
            status, retry_after = await _post(client, delivery, webhook, private_allowed=private_allowed)
    except TimeoutError:
        error = f"no answer within {TRY_SECONDS:g} s"
    except Invalid as refused:
        error = refused.message
    except (httpx.HTTPError, httpx.InvalidURL) as failure:
        error = type(failure).__name__
    return Outcome(status, error, retry_after, round((time.perf_counter() - began) * 1000))


async def _post(
    client: httpx.AsyncClient, delivery: WebhookDelivery, webhook: Webhook, *, private_allowed: bool
) -> tuple[int, timedelta | None]:
    """Send the message and return the status and Retry-After. Tries each address until one accepts a connection."""
    parts = webhook_address.split(webhook.url, private_allowed=private_allowed)
    assert parts.hostname is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = await asyncio.to_thread(webhook_address.resolve, parts.hostname, port, private_allowed=private_allowed)
    body = json.dumps(delivery.payload, separators=(",", ":"))
    headers = {**signed_headers(delivery, webhook, body), "Host": parts.netloc}
    for number, address in enumerate(addresses, 1):
        url = httpx.URL(webhook.url).copy_with(host=str(address))
        try:
            async with client.stream(
                "POST", url, content=body, headers=headers, extensions={"sni_hostname": parts.hostname}
            ) as answer:
                return answer.status_code, _retry_after(answer)
        except httpx.ConnectError:
            if number == len(addresses):
                raise
    raise AssertionError("a name that resolves has an address")


def signed_headers(delivery: WebhookDelivery, webhook: Webhook, body: str) -> dict[str, str]:
    """Return the headers of a message. Its id is the same in every try.

    During the grace period of a rotation there are two signatures.
    """
    now = datetime.now(UTC)
    message_id = f"msg_{delivery.id.hex}"
    live = [webhook.secret]
    if webhook.previous_secret and webhook.previous_until and webhook.previous_until > now:
        live.append(webhook.previous_secret)
    return {
        "Content-Type": "application/json",
        "User-Agent": "OPAD-Webhooks",
        "Webhook-Id": message_id,
        "Webhook-Timestamp": str(int(now.timestamp())),
        "Webhook-Signature": " ".join(Signer(secret).sign(message_id, now, body) for secret in live),
    }


def _retry_after(answer: httpx.Response) -> timedelta | None:
    """Return Retry-After if it is given in seconds. A date, which is rare, is ignored."""
    text = answer.headers.get("retry-after", "")
    return timedelta(seconds=int(text)) if text.isdecimal() and len(text) < 7 else None


def _record(sessions: Sessions, delivery: WebhookDelivery, outcome: Outcome) -> None:
    delivery_log = log.bind(delivery_id=str(delivery.id), webhook_id=str(delivery.webhook_id), tries=delivery.tries + 1)
    with sessions.begin() as db:
        if outcome.status is not None and 200 <= outcome.status < 300:
            webhooks.record_arrival(db, delivery, outcome.entry())
            delivery_log.info("webhook.delivered", status=outcome.status, ms=outcome.milliseconds)
        elif outcome.status == httpx.codes.GONE:
            webhooks.record_gone(db, delivery, outcome.entry())
            delivery_log.warning("webhook.disabled", status=outcome.status)
        else:
            state = webhooks.record_failure(db, delivery, outcome.entry(), retry_after=outcome.retry_after)
            delivery_log.warning("webhook.try_failed", status=outcome.status, error=outcome.error, state=state)
