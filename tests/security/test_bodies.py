"""Malformed HTTP requests, sent over a bare socket to a real server."""

import re
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from api.domain.settings import Settings
from tests.api.reference_images import reference
from tests.job_life import wait_until
from tests.security.conftest import NOTHING

BOUNDARY = "xyz"
MB = 1024**2


def part(name: str, data: bytes, *, filename: str | None = None, extra: str = "") -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n{extra}\r\n".encode() + data + b"\r\n"


def whole(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


FIELDS = [part("name", b"x"), part("class_noun", b"mug"), part("consent", b"true")]
FILES = [part("images", reference(n), filename=f"{n}.jpg") for n in range(3)]


class Wire:
    """A connection to the service with a key of alice."""

    def __init__(self, served: str, key: str) -> None:
        parts = urlsplit(served)
        self._key = key
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=60)

    def head(self, *, path: str = "/v1/concepts", content_type: str | None = None, **fields: str) -> None:
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {self._key}",
            f"Content-Type: {content_type or f'multipart/form-data; boundary={BOUNDARY}'}",
            *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items()),
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        """Send as much as the service accepts; it may have answered and closed."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def answer(self) -> tuple[int, bytes]:
        """Return the status and everything received until the answer is complete or the service closes."""
        got = b""
        while b"\r\n\r\n" not in got or len(got.partition(b"\r\n\r\n")[2]) < _length(got):
            try:
                more = self.socket.recv(1 << 16)
            except ConnectionResetError:
                break
            if not more:
                break
            got += more
        return int(got[9:12]), got


def _length(answer: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", answer.partition(b"\r\n\r\n")[0].lower())
    return int(found[1]) if found else 0


@pytest.fixture
def api_settings(api_settings: Settings) -> Settings:
    """Settings that wait two seconds instead of thirty for a body that stops."""
    return api_settings.model_copy(update={"body_seconds": 2.0})


@pytest.fixture
def wire(served: str, new_key: Callable[..., str], base: None) -> Any:
    opened: list[Wire] = []

    def connect() -> Wire:
        opened.append(Wire(served, new_key()))
        return opened[-1]

    yield connect
    for one in opened:
        one.socket.close()


def test_a_good_upload_passes_this_way(wire: Any) -> None:
    """Without this the errors below would prove nothing."""
    body = whole(*FIELDS, *FILES)
    one = wire()
    one.head(Content_Length=str(len(body)))
    one.send(body)
    assert one.answer()[0] == 202


def test_a_file_over_the_limit_is_refused_before_the_rest_arrives(wire: Any, stored: Any, resident_growth: Any) -> None:
    one = wire()
    one.head(Content_Length=str(5 * MB))
    began = time.monotonic()
    one.send(part("images", b"\xff\xd8\xff" + bytes(MB), filename="a.jpg"))  # the limit here is 1 MB

    status, answer = one.answer()

    assert (status, b"file_too_large" in answer) == (413, True)
    assert time.monotonic() - began < 20, "long before a rest that never comes"
    assert resident_growth() < 64 * MB
    assert stored() == NOTHING


def test_a_declared_length_that_is_too_small_cuts_the_body(wire: Any, stored: Any) -> None:
    body = whole(*FIELDS, *FILES)
    one = wire()
    one.head(Content_Length=str(len(body) // 2))
    one.send(body)

    assert one.answer()[0] in (400, 422)
    assert stored() == NOTHING


def test_a_body_that_stops_is_waited_for_no_longer_than_its_time(wire: Any, stored: Any) -> None:
    for path, content_type in (("/v1/concepts", None), ("/v1/generate", "application/json")):
        one = wire()
        one.head(path=path, content_type=content_type, Transfer_Encoding="chunked")
        one.send(b"5\r\n--xyz\r\n")

        status, answer = one.answer()

        assert (status, b"too_slow" in answer) == (408, True)
        assert one.socket.recv(1) == b"", "the connection is closed"
    assert stored() == NOTHING


@pytest.mark.parametrize(
    "fields",
    [{"Content_Length": "-1"}, {"Content_Length": "10\r\nContent-Length: 20"}, {"Content_Length": "abc"},
     {"Content_Length": "10", "Transfer_Encoding": "chunked"}],
    ids=["negative", "twice", "no number", "both lengths"],
)  # fmt: skip
def test_a_length_that_two_readers_could_read_differently_is_refused(wire: Any, fields: dict[str, str]) -> None:
    one = wire()
    one.head(**fields)
    one.send(b"0\r\n\r\n" + b"x" * 20)
    assert one.answer()[0] == 400


MALFORMED: dict[str, tuple[str | None, bytes]] = {
    "1000 parts": (None, whole(*(part(f"f{n}", b"x") for n in range(1000)))),
    "1000 files": (None, whole(*(part("images", b"x", filename="a") for _ in range(1000)))),
    "a part with 10,000 headers": (
        None,
        whole(part("images", b"x", filename="a", extra="".join(f"X-{n}: y\r\n" for n in range(10_000)))),
    ),
    "a header of 1 MB in a part": (None, whole(part("images", b"x", filename="a", extra=f"X: {'y' * MB}\r\n"))),
    "a boundary of 10 kB": ("multipart/form-data; boundary=" + "b" * 10_000, b"--" + b"b" * 10_000 + b"--\r\n"),
    "no boundary": ("multipart/form-data", whole(*FIELDS)),
    "no disposition": (None, f"--{BOUNDARY}\r\nX: y\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode()),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_broken_form_is_a_400_for_little_work(wire: Any, stored: Any, resident_growth: Any, name: str) -> None:
    content_type, body = MALFORMED[name]
    one, process = wire(), psutil.Process()
    before = process.cpu_times().user
    one.head(content_type=content_type, Content_Length=str(len(body)))
    one.send(body)

    status, answer = one.answer()

    assert status == 400, answer[:600]
    assert b"application/problem+json" in answer
    assert process.cpu_times().user - before < 2
    assert resident_growth() < 64 * MB
    assert stored() == NOTHING


def test_megabytes_before_the_first_part_are_not_read(wire: Any, stored: Any, resident_growth: Any) -> None:
    one = wire()
    one.head(Content_Length=str(100 * MB))
    for _ in range(12):
        one.send(b"x" * MB)

    assert one.answer()[0] in (400, 413)
    assert resident_growth() < 64 * MB
    assert stored() == NOTHING


def test_a_form_of_100_000_fields_is_refused_where_forms_are_read(wire: Any) -> None:
    body = b"&".join(b"f%d=1" % n for n in range(100_000))
    urlencoded = "application/x-www-form-urlencoded"
    for path, status in (("/v1/concepts", 415), ("/dashboard/sign-in", 400)):
        one = wire()
        one.head(path=path, content_type=urlencoded, Content_Length=str(len(body)))
        one.send(body)
        assert one.answer()[0] == status


def test_json_of_many_megabytes_is_refused_before_it_is_parsed(wire: Any, resident_growth: Any) -> None:
    declared, silent = wire(), wire()
    declared.head(path="/v1/generate", content_type="application/json", Content_Length=str(50 * MB))
    silent.head(path="/v1/generate", content_type="application/json", Transfer_Encoding="chunked")
    silent.send(f"{MB + 1:x}\r\n".encode() + b" " * (MB + 1))

    for one in (declared, silent):
        status, answer = one.answer()
        assert (status, b"body_too_large" in answer) == (413, True)
    assert resident_growth() < 64 * MB


def test_an_upload_that_breaks_off_leaves_no_file_behind(wire: Any, stored: Any) -> None:
    def spooled() -> int:
        return sum("(deleted)" in file.path or "/tmp/" in file.path for file in psutil.Process().open_files())

    before = spooled()
    one = wire()
    one.head(Content_Length=str(3 * MB))
    one.send(b"".join(FIELDS) + part("images", b"\xff\xd8\xff" + bytes(900_000), filename="a.jpg"))
    one.socket.close()

    wait_until(lambda: spooled() <= before, seconds=60, what="the end of the upload's file")
    assert stored() == NOTHING


@pytest.mark.parametrize("host", ["a/dashboard?x=", "a@b", "a\tb", "[::1", "a:b:c", "", "x" * 10 + "#"])
def test_a_host_that_is_more_than_a_host_is_refused(wire: Any, host: str) -> None:
    one = wire()
    one.send(f"GET /v1/audit HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert one.answer()[0] == 400


@pytest.mark.parametrize(
    "hosts", ["", "Host: localhost\r\nHost: localhost\r\n", "Host: a.example\r\nHost: localhost\r\n"]
)
@pytest.mark.parametrize("http", ["1.0", "1.1"])
def test_no_host_and_two_hosts_are_refused(wire: Any, hosts: str, http: str) -> None:
    one = wire()
    one.send(f"GET /healthz HTTP/{http}\r\n{hosts}Connection: close\r\n\r\n".encode())
    assert one.answer()[0] == 400
