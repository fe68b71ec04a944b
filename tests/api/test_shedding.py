"""More generate requests than there are places."""

import asyncio
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.domain.settings import Settings
from api.middleware import RequestFrame
from api.public_address import PublicAddress
from api.shedding import IN_FLIGHT_PER_ENGINE, LoadShedding, OpenRequests


class Ask:
    """Send one POST to the application as a server does, and keep the answer."""

    def __init__(self, path: str = "/v1/generate", method: str = "POST") -> None:
        self.scope: dict[str, Any] = {
            "type": "http", "method": method, "path": path, "scheme": "http", "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "server": ("localhost", 80), "root_path": "",
        }  # fmt: skip
        self.status, self.headers, self.body = 0, {}, b""

    async def of(self, app: Any) -> None:
        await app(self.scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]


async def fill(app: Any, finish: asyncio.Event) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(Ask().of(app)) for _ in range(IN_FLIGHT_PER_ENGINE)]
    await asyncio.sleep(0)
    return tasks


@pytest.fixture
def finish() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def app(finish: asyncio.Event) -> RequestFrame:
    """An application behind the load shedding that answers on command."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST" and "generat" in scope["path"]:
            await finish.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return RequestFrame(LoadShedding(slow, engines=1), upload_bytes=1, body_seconds=1)


def test_a_request_without_a_place_is_told_when_to_retry(app: Any, finish: asyncio.Event) -> None:
    async def scenario() -> tuple[Ask, Ask, Ask]:
        inside = await fill(app, finish)
        refused, other, after = Ask(), Ask("/v1/jobs", "GET"), Ask("/generate")
        await refused.of(app)
        await other.of(app)
        finish.set()
        await asyncio.gather(*inside)
        await after.of(app)
        return refused, other, after

    refused, other, after = asyncio.run(scenario())

    assert refused.status == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) >= 1
    said = json.loads(refused.body)
    assert said["code"] == "overloaded"
    assert said["request_id"] == refused.headers["x-request-id"]
    assert (other.status, after.status) == (200, 200)


def test_a_request_that_fails_gives_its_place_back() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        door = LoadShedding(broken, engines=1)
        for _ in range(IN_FLIGHT_PER_ENGINE + 1):
            with pytest.raises(ZeroDivisionError):
                await Ask().of(door)

    asyncio.run(scenario())


def test_the_service_sheds_load(settings: Settings) -> None:
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        layer: Any = client.app.middleware_stack
        while not isinstance(layer, LoadShedding):
            layer = layer._app if isinstance(layer, PublicAddress | RequestFrame | OpenRequests) else layer.app
        layer._in_flight = IN_FLIGHT_PER_ENGINE
        assert client.post("/v1/generate", json={}).status_code == 503
        assert client.get("/healthz").status_code == 200


def test_a_crowded_process_refuses_requests_and_answers_probes() -> None:
    async def scenario() -> tuple[Ask, Ask, Ask, Ask]:
        finish = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/v1/jobs":
                await finish.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        app = RequestFrame(OpenRequests(slow, at_most=3), upload_bytes=1, body_seconds=1)
        inside = [asyncio.create_task(Ask("/v1/jobs", "GET").of(app)) for _ in range(3)]
        await asyncio.sleep(0)
        refused, healthy, ready, after = Ask("/v1/keys", "GET"), Ask("/healthz", "GET"), Ask("/readyz", "GET"), Ask()
        for ask in (refused, healthy, ready):
            await ask.of(app)
        finish.set()
        await asyncio.gather(*inside)
        await after.of(app)
        return refused, healthy, ready, after

    refused, healthy, ready, after = asyncio.run(scenario())
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert refused.headers["content-type"] == "application/problem+json"
    assert json.loads(refused.body)["code"] == "crowded"
    assert (healthy.status, ready.status, after.status) == (200, 200, 200)
