"""Engines found by a DNS name. `tests/docker/test_scale.py` tests several of them in containers."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.engine_client import EngineClient
from tests.api.services import replace_services

ASKED = {"concept": "my mug", "prompt": "a <concept> on the beach", "seed": 3}


@pytest.fixture
def port(engine_url: str) -> Iterator[int]:
    """A TCP port on 127.0.0.1 that forwards to the engine."""

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as engine:
                engine.connect(engine_url.removeprefix("unix:"))
                answers = threading.Thread(target=pump, args=(engine, self.request))
                answers.start()
                pump(self.request, engine)
                answers.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_name_stands_for_its_addresses_the_dead_ones_passed_over(
    client: TestClient, ready: dict[str, Any], port: int
) -> None:
    """On most systems `localhost` is also ::1, where nothing listens; that address may be tried first."""
    by_socket = client.post("/v1/generate", json=ASKED).json()["images"][0]["data"]
    replace_services(client, engines=EngineClient([f"dns+http://localhost:{port}"], timeout_seconds=30))
    assert client.post("/v1/generate", json=ASKED).json()["images"][0]["data"] == by_socket
    assert client.get("/readyz").status_code == 200


def test_a_name_that_nobody_knows_is_no_engine(client: TestClient, ready: dict[str, Any]) -> None:
    replace_services(client, engines=EngineClient(["dns+http://engine.invalid:8100"], timeout_seconds=5))
    answer = client.post("/v1/generate", json=ASKED)
    assert answer.status_code == 503
    assert answer.json()["code"] == "no_engine"
    assert client.get("/readyz").json()["parts"]["engine"] == "unreachable"
