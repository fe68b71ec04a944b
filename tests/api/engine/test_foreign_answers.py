"""Answers at an engine's address that are not an engine's: of another version, or of a proxy before it."""

import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.engine_client import EngineClient
from tests.api.services import replace_services

ASKED = {"concept": "my mug", "prompt": "a <concept> on the beach", "seed": 3}


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """Serve one response to every request; return the address."""
    servers = []

    def serve(response: bytes) -> str:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                request = b""
                while not request.endswith(b"}"):
                    request += self.request.recv(65536)
                self.request.sendall(response)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("200 OK", b'{"images": ["iVBORw0KGgo="], "seeds": [3]}'),
        ("200 OK", b"\x00\x00\x00\x5a" + b'{"sizes":[900],"seeds":[3],"media_type":"image/png","timing":{}'),
        ("200 OK", b""),
        ("422 Unprocessable Content", b"<html>unprocessable</html>"),
        ("409 Conflict", b"[]"),
        ("503 Service Unavailable", b"upstream connect error"),
        ("500 Internal Server Error", b"Internal Server Error"),
    ],
)
def test_the_client_is_told_that_the_engine_failed(
    client: TestClient, ready: dict[str, Any], answering: Callable[[bytes], str], status: str, body: bytes
) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    replace_services(client, engines=EngineClient([answering(head + body)], timeout_seconds=30))

    answer = client.post("/v1/generate", json=ASKED)

    assert (answer.status_code, answer.json()["code"]) == (503, "engine_failed")
    assert answer.json()["detail"] == "the engine failed on this request; see the engine's log"
