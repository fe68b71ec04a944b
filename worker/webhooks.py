"""Deliver webhook messages at least once, signed as Standard Webhooks, to the address that was checked.

Runs in a thread of the reconciler; several may run at the same time. A delivery may take ten seconds, from the lookup
of the name to the status line. Redirects are not followed. Only the status and Retry-After of the response are read.

HTTPS_PROXY, ALL_PROXY and NO_PROXY apply to public addresses; a private one is called directly.
"""

import asyncio
import json
import ssl
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import SplitResult
from urllib.request import getproxies_environment, proxy_bypass

import httpx
import structlog
from socksio.exceptions import SOCKSError
from sqlalchemy import func, select
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
        now = db.scalars(select(func.clock_timestamp())).one()
    if not claimed:
        return 0
    outcomes = asyncio.run(_send_all(claimed, now, private_allowed=settings.webhooks_to_private_addresses))
    for (delivery, _), outcome in zip(claimed, outcomes, strict=True):
        _record(sessions, delivery, outcome)
    return len(claimed)


class _Clients:
    """The clients of one round of deliveries: one for direct connections, and one for each proxy."""

    def __init__(self, opened: AsyncExitStack) -> None:
        self._opened = opened
        self._by_proxy: dict[str | None, httpx.AsyncClient] = {}
        self._certificates = _trusted_certificates()

    async def through(self, proxy: str | None) -> httpx.AsyncClient:
        """Return the client for a proxy, or for direct connections. Raises Invalid for an unusable proxy."""
        if proxy not in self._by_proxy:
            limits = httpx.Limits(max_keepalive_connections=0)  # no keep-alive: two names may share an address
            try:
                client = httpx.AsyncClient(
                    trust_env=False, verify=self._certificates, proxy=proxy, timeout=TRY_SECONDS, limits=limits
                )
            except (ValueError, httpx.InvalidURL) as error:
                raise Invalid("HTTPS_PROXY or ALL_PROXY is no address of a proxy; correct it", "webhook_url") from error
            self._by_proxy[proxy] = await self._opened.enter_async_context(client)
        return self._by_proxy[proxy]


def _trusted_certificates() -> ssl.SSLContext:
    """Return the authorities of SSL_CERT_FILE or SSL_CERT_DIR, which a proxy may need, else those of certifi."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # no such file, or none of certificates
        log.warning("webhooks.certificates_unreadable", error=str(error))
        return httpx.create_ssl_context(trust_env=False)


async def _send_all(
    claimed: list[tuple[WebhookDelivery, Webhook]], now: datetime, *, private_allowed: bool
) -> list[Outcome]:
    async with AsyncExitStack() as opened:
        clients = _Clients(opened)
        return await asyncio.gather(
            *(_send(clients, delivery, webhook, now, private_allowed=private_allowed) for delivery, webhook in claimed)
        )


async def _send(
    clients: _Clients, delivery: WebhookDelivery, webhook: Webhook, now: datetime, *, private_allowed: bool
) -> Outcome:
    began = time.perf_counter()
    status = error = retry_after = None
    try:
        async with asyncio.timeout(TRY_SECONDS):
            status, retry_after = await _post(clients, delivery, webhook, now, private_allowed=private_allowed)
    except TimeoutError:
        error = f"no answer within {TRY_SECONDS:g} s"
    except Invalid as refused:
        error = refused.message
    except (httpx.HTTPError, httpx.InvalidURL, SOCKSError) as failure:  # httpx passes SOCKSError on as it is
        error = type(failure).__name__
    return Outcome(status, error, retry_after, round((time.perf_counter() - began) * 1000))


async def _post(
    clients: _Clients, delivery: WebhookDelivery, webhook: Webhook, now: datetime, *, private_allowed: bool
) -> tuple[int, timedelta | None]:
    """Send the message and return the status and Retry-After. Tries each address until one accepts a connection."""
    parts = webhook_address.split(webhook.url, private_allowed=private_allowed)
    assert parts.hostname is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = await asyncio.to_thread(webhook_address.resolve, parts.hostname, port, private_allowed=private_allowed)
    body = json.dumps(delivery.payload, separators=(",", ":"))
    headers = {**signed_headers(delivery, webhook, body, now), "Host": parts.netloc}
    if proxy := proxy_for(parts, addresses):
        # The proxy looks the name up again. It cannot be led to another server: that one lacks the name's certificate.
        client, targets = await clients.through(proxy), [httpx.URL(webhook.url)]
    else:
        client = await clients.through(None)
        targets = [httpx.URL(webhook.url).copy_with(host=str(address)) for address in addresses]
    for number, url in enumerate(targets, 1):
        try:
            async with client.stream(
                "POST", url, content=body, headers=headers, extensions={"sni_hostname": parts.hostname}
            ) as answer:
                return answer.status_code, _retry_after(answer)
        except httpx.ConnectError:
            if number == len(targets):
                raise
    raise AssertionError("a name that resolves has an address")


def proxy_for(parts: SplitResult, addresses: list[webhook_address.Address]) -> str | None:
    """Return the environment's proxy for this address, or None if it is to be called directly."""
    if not all(map(webhook_address.is_public, addresses)) or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def signed_headers(delivery: WebhookDelivery, webhook: Webhook, body: str, now: datetime) -> dict[str, str]:
    """Return the headers of a message. Its id is the same in every try. `now` is the database's time.

    During the grace period of a rotation there are two signatures.
    """
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
