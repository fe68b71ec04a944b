"""Keep-alive connections to a server that answers each request as the test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from api.engine_connections import Answer, EngineConnections, NoAnswer, Unreachable

Respond = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Counts the connections, and tells when one was closed by its client."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self.writers: list[asyncio.StreamWriter] = []
        self.requests: list[bytes] = []
        self.left = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.requests.append(head + body)
                await self._respond(body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(folder: Path, respond: Respond) -> AsyncIterator[tuple[Server, str]]:
    server = Server(respond)
    path = folder / "server.sock"
    listener = await asyncio.start_unix_server(server.handle, path)
    try:
        yield server, f"unix:{path}"
    finally:
        listener.close()


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def finish(request) -> Callable[..., None]:
    """Run a coroutine to its end. The service uses uvloop, its tests the other loop."""
    return request.param


async def echo(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def ask(connections: EngineConnections, body: bytes = b"{}", *, seconds: float = 20) -> Answer:
    return await connections.request("POST", "/generate", seconds=seconds, connect_seconds=20, json=body)


def test_requests_that_follow_each_other_share_a_connection(finish, short_folder):
    async def run():
        async with serving(short_folder, echo) as (server, url):
            connections = EngineConnections(url)
            assert await ask(connections, b"first") == Answer(200, b"first")
            assert await ask(connections, b"second") == Answer(200, b"second")
            assert len(server.writers) == 1
            assert server.requests[0] == (
                b"POST /generate HTTP/1.1\r\nHost: engine\r\nContent-Length: 5\r\n"
                b"Content-Type: application/json\r\n\r\nfirst"
            )
            connections.close()

    finish(run())


def test_requests_at_the_same_time_have_a_connection_each(finish, short_folder):
    async def run():
        all_arrived = asyncio.Barrier(3)

        async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
            await all_arrived.wait()
            await echo(body, writer)

        async with serving(short_folder, respond) as (server, url):
            connections = EngineConnections(url)
            answers = await asyncio.gather(*(ask(connections, body) for body in (b"a", b"bc", b"def")))
            assert [answer.body for answer in answers] == [b"a", b"bc", b"def"]
            assert len(server.writers) == 3
            connections.close()

    finish(run())


def test_a_connection_that_the_server_ends_is_not_used_again(finish, short_folder):
    async def run():
        async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy")

        async with serving(short_folder, respond) as (server, url):
            connections = EngineConnections(url)
            assert [await ask(connections), await ask(connections)] == 2 * [Answer(503, b"busy")]
            assert len(server.writers) == 2

    finish(run())


def test_an_answer_in_chunks_is_read_to_its_end(finish, short_folder):
    async def run():
        async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            await writer.drain()
            writer.write(b"2\r\nde\r\n0\r\n\r\n")

        async with serving(short_folder, respond) as (_, url):
            connections = EngineConnections(url)
            assert await ask(connections) == Answer(200, b"abcde")
            assert await ask(connections) == Answer(200, b"abcde")
            connections.close()

    finish(run())


def test_an_answer_without_a_body_is_complete(finish, short_folder):
    async def run():
        async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

        async with serving(short_folder, respond) as (_, url):
            connections = EngineConnections(url)
            assert await ask(connections) == Answer(204, b"")
            connections.close()

    finish(run())


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"220 mail.example.com ESMTP\r\n"]
)
def test_a_connection_that_ends_early_or_is_not_http_is_unreachable(finish, short_folder, sent):
    async def run():
        async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(sent)
            writer.close()

        async with serving(short_folder, respond) as (_, url):
            with pytest.raises(Unreachable):
                await ask(EngineConnections(url))

    finish(run())


def test_an_address_where_nothing_listens_is_unreachable(finish, short_folder):
    async def run():
        with pytest.raises(Unreachable):
            await ask(EngineConnections(f"unix:{short_folder}/nothing"))
        with pytest.raises(Unreachable):
            await ask(EngineConnections("http://127.0.0.1:1"))

    finish(run())


def test_a_late_answer_reaches_nobody(finish, short_folder):
    """The connection is closed. On a reused one, the next request would get the answer to the first."""

    async def run():
        async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
            if body != b"never":
                await echo(body, writer)

        async with serving(short_folder, respond) as (server, url):
            connections = EngineConnections(url)
            with pytest.raises(NoAnswer):
                await ask(connections, b"never", seconds=0.01)
            async with asyncio.timeout(20):
                await server.left.wait()
            assert await ask(connections, b"next") == Answer(200, b"next")
            assert len(server.writers) == 2
            connections.close()

    finish(run())


def test_a_cancelled_request_closes_its_connection(finish, short_folder):
    async def run():
        arrived = asyncio.Event()

        async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
            arrived.set()

        async with serving(short_folder, respond) as (server, url):
            asking = asyncio.create_task(ask(EngineConnections(url)))
            await arrived.wait()
            asking.cancel()
            async with asyncio.timeout(20):
                await server.left.wait()

    finish(run())


def test_after_a_broken_connection_the_next_request_opens_a_new_one(finish, short_folder):
    """Two connections are idle when the engine restarts; the second try must not take the other dead one."""

    async def run():
        both_arrived = asyncio.Barrier(2)

        async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
            if body == b"together":
                await both_arrived.wait()
            if body == b"restart":
                writer.close()
            else:
                await echo(body, writer)

        async with serving(short_folder, respond) as (server, url):
            connections = EngineConnections(url)
            await asyncio.gather(ask(connections, b"together"), ask(connections, b"together"))
            with pytest.raises(Unreachable):
                await ask(connections, b"restart")
            assert await ask(connections, b"next") == Answer(200, b"next")
            assert len(server.writers) == 3
            connections.close()

    finish(run())


def test_a_connection_that_was_idle_for_long_is_replaced(finish, short_folder):
    async def run():
        async with serving(short_folder, echo) as (server, url):
            connections = EngineConnections(url, idle_seconds=0)
            await ask(connections)
            await ask(connections)
            assert len(server.writers) == 2
            connections.close()

    finish(run())


def test_bytes_that_nobody_asked_for_end_the_connection(finish, short_folder):
    async def run():
        async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
            await echo(body, writer)
            if body == b"twice":
                await echo(body, writer)

        async with serving(short_folder, respond) as (server, url):
            connections = EngineConnections(url)
            assert await ask(connections, b"twice") == Answer(200, b"twice")
            assert await ask(connections, b"next") == Answer(200, b"next")
            assert len(server.writers) == 2
            connections.close()

    finish(run())
