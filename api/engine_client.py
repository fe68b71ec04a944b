"""The api's HTTP client of the engines, over keep-alive connections to TCP ports or unix sockets."""

import asyncio
import hashlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import structlog
from pydantic import BaseModel

from api.domain.denied_words import ENGINE_CODE, refusal
from api.domain.engine_answer import Generated
from api.domain.errors import Conflict, DeadlineExceeded, DomainError, Invalid, Unavailable
from api.domain.settings import DecoderName

log = structlog.get_logger()

_GRACE_SECONDS = 0.5
"""Seconds to wait after the deadline, so that the engine's own timeout error arrives."""
_CONNECT_SECONDS = 1
"""A vanished host does not answer for minutes; another engine is asked long before."""
_LOOK_UP_SECONDS = 5
_SILENT_SECONDS = 15
"""How long an engine that missed a deadline without an answer is asked only after all others."""
_BY_NAME = "dns+"


@dataclass(frozen=True)
class BundleKey:
    key: str
    sha256: str


class _Refusal(BaseModel):
    code: str
    message: str


class _Busy(BaseModel):
    code: str
    retry_after: float


class EngineClient:
    """A client of all engines. It asks the engine that holds the concept's bundle, and one other if that fails."""

    def __init__(self, urls: Sequence[str], *, timeout_seconds: float) -> None:
        """Take URLs: `http://host:port`, `unix:/path`, or `dns+http://name:port` for every address of a name."""
        self._timeout_seconds = timeout_seconds
        self._fixed = [url for url in urls if not url.startswith(_BY_NAME)]
        self._names = [url.removeprefix(_BY_NAME) for url in urls if url.startswith(_BY_NAME)]
        self._named: list[str] = []
        self._looked_up = -_LOOK_UP_SECONDS - 1.0
        self._silent_until: dict[str, float] = {}
        self._by_socket = {url: _connect(url) for url in self._fixed if url.startswith("unix:")}
        self._by_network = httpx.AsyncClient(limits=_limits(), trust_env=False)

    async def close(self) -> None:
        for client in (*self._by_socket.values(), self._by_network):
            await client.aclose()

    async def generate(
        self,
        concept_id: UUID,
        *,
        bundle: BundleKey | None,
        prompt: str,
        seeds: list[int],
        image_format: str,
        decoder: DecoderName = "full",
    ) -> Generated:
        """Generate images. A second try uses the same seeds, so it returns the same images, but for rounding.

        Raises Unavailable, DeadlineExceeded, Invalid; Conflict for a bundle of another base.
        """
        body = {
            "bundle": None if bundle is None else {"key": bundle.key, "sha256": bundle.sha256},
            "concept_id": None if bundle is None else str(concept_id),
            "prompt": prompt,
            "seeds": seeds,
            "format": image_format,
            "decoder": decoder,
        }
        deadline = time.monotonic() + self._timeout_seconds
        failure: DomainError = Unavailable("no engine is running; start one, then try again", "no_engine")
        urls = await self._urls()
        for url in self._tries(concept_id, urls):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                answer = await self._ask(
                    "POST",
                    url,
                    "/generate",
                    json={**body, "deadline_ms": int(left * 1000)},
                    timeout=httpx.Timeout(left + _GRACE_SECONDS, connect=min(left, _CONNECT_SECONDS)),
                )
            except httpx.ReadTimeout:  # a live engine reports a missed deadline itself
                log.error("engine.silent", engine=url, seconds=_SILENT_SECONDS)
                self._silent_until[url] = time.monotonic() + _SILENT_SECONDS
                failure = _nobody_answers()
                break
            except httpx.TransportError as error:  # not there, or it closed a keep-alive connection
                log.warning("engine.unreachable", engine=url, error=type(error).__name__)
                self._looked_up = -_LOOK_UP_SECONDS - 1.0
                failure = _nobody_answers()
                continue
            try:
                if answer.is_success:
                    return Generated.unpack(answer.content)
                failure = self._refusal(answer)
            except ValueError as error:
                log.error("engine.malformed", engine=url, status=answer.status_code, size=len(answer.content))
                raise _failed() from error
            if answer.status_code != 503 or len(urls) == 1:  # a busy engine is not asked again: that makes it busier
                break
        raise failure

    async def forget(self, sha256s: Sequence[str]) -> tuple[int, int]:
        """Make every engine drop its copies of these bundles. Return how many did, and how many did not answer."""
        urls, unreachable = await self._urls(), 0
        for url in urls:
            try:
                for sha256 in sha256s:
                    (await self._ask("DELETE", url, f"/bundles/{sha256}", timeout=5)).raise_for_status()
            except httpx.HTTPError as error:
                log.warning("engine.forget_failed", engine=url, error=type(error).__name__)
                unreachable += 1
        return len(urls) - unreachable, unreachable

    async def ready(self) -> bool:
        """Return whether any engine has loaded its base."""
        for url in await self._urls():
            try:
                if (await self._ask("GET", url, "/readyz", timeout=2)).is_success:
                    return True
            except httpx.TransportError:
                continue
        return False

    async def _ask(self, method: str, url: str, path: str, **options: Any) -> httpx.Response:
        if url in self._by_socket:
            return await self._by_socket[url].request(method, path, **options)
        return await self._by_network.request(method, url + path, **options)

    async def _urls(self) -> list[str]:
        """Return the engines' URLs. Names are looked up again every few seconds and after a failure."""
        if self._names and time.monotonic() - self._looked_up > _LOOK_UP_SECONDS:
            self._looked_up = time.monotonic()
            found = await asyncio.gather(*map(_addresses, self._names))
            self._named = sorted({url for urls in found for url in urls})
        return self._fixed + self._named

    def _tries(self, concept_id: UUID, urls: list[str]) -> list[str]:
        """Choose two engines by rendezvous hashing, so that a concept stays where its bundle is loaded.

        A single engine is tried twice: its keep-alive connection may have died with its last process.
        """
        now = time.monotonic()

        def rank(url: str) -> tuple[bool, bytes]:
            return self._silent_until.get(url, now) > now, hashlib.sha256(f"{concept_id} {url}".encode()).digest()

        ranked = sorted(urls, key=rank)
        return ranked * 2 if len(ranked) == 1 else ranked[:2]

    def _refusal(self, answer: httpx.Response) -> DomainError:
        """Return the error that the engine answered with. Raises ValueError if another program answered."""
        if answer.status_code == 422:
            said = _Refusal.model_validate_json(answer.content)
            if said.code == ENGINE_CODE:
                return refusal("prompt")
            return Invalid(said.message, said.code)
        if answer.status_code == 409:
            said = _Refusal.model_validate_json(answer.content)
            return Conflict(said.message, said.code)
        if answer.status_code == 504:
            return self._late()
        if answer.status_code == 503:
            busy = _Busy.model_validate_json(answer.content)
            reason = "all engines are busy" if busy.code == "overloaded" else "the engine cannot load the concept"
            return Unavailable(
                f"{reason}; try again in {busy.retry_after:.0f} s", busy.code, retry_after=busy.retry_after
            )
        if answer.status_code == 404:
            return Unavailable("the concept's bundle cannot be found; train it again", "bundle_missing", retry_after=60)
        log.error("engine.failed", status=answer.status_code)
        return _failed()

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the image was not ready within {self._timeout_seconds:g} s; ask for fewer at once or try again later",
            "deadline_exceeded",
        )


def _failed() -> Unavailable:
    return Unavailable("the engine failed on this request; see the engine's log", "engine_failed")


def _nobody_answers() -> Unavailable:
    return Unavailable("no engine answers; try again in a few seconds", "no_engine", retry_after=3)


def _limits() -> httpx.Limits:
    return httpx.Limits(max_connections=400, max_keepalive_connections=100)


def _connect(url: str) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=url.removeprefix("unix:"), limits=_limits(), trust_env=False)
    return httpx.AsyncClient(transport=transport, base_url="http://engine", trust_env=False)


async def _addresses(url: str) -> list[str]:
    """Return the URL once for each address of its host name; an unknown name gives none."""
    parts = urlsplit(url)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        log.warning("engine.name_unknown", name=parts.hostname, error=str(error))
        return []
    hosts = {str(address[0]) for _, _, _, _, address in found}
    return [f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port}" for host in hosts]
