"""HTTP/1.1 over keep-alive connections to one engine. httpx takes ten times the processor time for a request.

On the path of an image, that was 0.9 ms of the 3 ms which a request may take beside the engine's own work.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

IDLE_SECONDS = 4.0
"""Less than the five seconds after which uvicorn closes an idle connection, so that no request meets its end."""


class Unreachable(Exception):
    """Nothing listens there, or the connection broke, or what arrived is not HTTP."""


class NoAnswer(Exception):
    """The engine took the request and did not answer in time."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


class EngineConnections:
    """The connections to one address: `http://host:port`, `https://host:port` or `unix:/path`.

    Use it from one event loop. It opens a connection for a request if none is idle.
    """

    def __init__(self, url: str, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._url = url
        self._host = urlsplit(url).netloc or "engine"
        self._idle_seconds = idle_seconds
        self._idle: list[_Connection] = []

    async def request(
        self, method: str, path: str, *, seconds: float, connect_seconds: float, json: bytes = b""
    ) -> Answer:
        """Send one request and return the answer. Raises Unreachable, NoAnswer."""
        connection = self._take_idle() or await self._open(connect_seconds)
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(json)}\r\n"
        try:
            async with asyncio.timeout(seconds):
                answer = await connection.exchange(f"{head}Content-Type: application/json\r\n\r\n".encode() + json)
        except TimeoutError as error:
            raise NoAnswer(f"no answer within {seconds:.1f} s") from error
        except Unreachable:
            self.close()  # the others are probably dead as well, so the next try opens a new one
            raise
        finally:
            if connection.can_be_reused:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
            else:
                connection.close()
        return answer

    def close(self) -> None:
        """Close the idle connections. Those in use are closed by their requests, or kept."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take_idle(self) -> "_Connection | None":
        """Return the connection that was used last, and close those that were not used for seconds."""
        usable_since = time.monotonic() - self._idle_seconds
        while self._idle and self._idle[0].idle_since < usable_since:
            self._idle.pop(0).close()
        while self._idle:
            connection = self._idle.pop()
            if connection.can_be_reused:
                return connection
        return None

    async def _open(self, seconds: float) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                if self._url.startswith("unix:"):
                    _, connection = await loop.create_unix_connection(_Connection, self._url.removeprefix("unix:"))
                else:
                    parts = urlsplit(self._url)
                    is_tls = parts.scheme == "https"
                    port = parts.port or (443 if is_tls else 80)
                    _, connection = await loop.create_connection(
                        _Connection, parts.hostname or "", port, ssl=is_tls or None
                    )
        except (OSError, TimeoutError) as error:
            raise Unreachable(type(error).__name__) from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection, for one exchange at a time. Its `on_` methods are called by the parser."""

    def __init__(self) -> None:
        self.can_be_reused = False
        self.idle_since = 0.0
        self._answer: asyncio.Future[Answer] | None = None
        self._pieces: list[bytes] = []

    async def exchange(self, request: bytes) -> Answer:
        """Send a request and return the answer. Raises Unreachable."""
        self.can_be_reused = False
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self.can_be_reused = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():  # nobody asked
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(type(error).__name__)

    def connection_lost(self, error: Exception | None) -> None:
        self.can_be_reused = False
        self._fail("closed" if error is None else type(error).__name__)

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        assert self._answer is not None
        is_awaited = not self._answer.done()
        self.can_be_reused = is_awaited and self._parser.should_keep_alive()
        if is_awaited:
            self._answer.set_result(Answer(self._parser.get_status_code(), b"".join(self._pieces)))
        self._pieces = []

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unreachable(reason))
