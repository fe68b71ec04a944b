"""The dashboard behind a TLS proxy, below a sub-path."""

import datetime
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from api.__main__ import make_server
from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.tables import Job, JobState
from tests.browser.conftest import act_on_all_jobs, sign_in
from tests.job_life import wait_until

_HOP_BY_HOP = {"host", "connection", "keep-alive", "transfer-encoding"}


def reverse_proxy(upstream: Callable[[], str], *, removes: str) -> Starlette:
    """Pass every request on as nginx does: with the upstream's address as Host, and the scheme in a header."""
    # no keep-alive: the api may close an idle connection just when a request is sent
    limits = httpx.Limits(max_keepalive_connections=0)
    client = httpx.AsyncClient(trust_env=False, timeout=60, limits=limits)

    async def forward(request: Request) -> StreamingResponse:
        headers = [(name, value) for name, value in request.headers.raw if name.decode() not in _HOP_BY_HOP]
        target = f"{upstream()}{request.url.path.removeprefix(removes)}?{request.url.query}"
        sent = client.build_request(
            request.method,
            target,
            headers=[*headers, (b"x-forwarded-proto", b"https")],
            content=await request.body(),
        )
        answer = await client.send(sent, stream=True)

        async def body() -> AsyncIterator[bytes]:
            async for piece in answer.aiter_raw():
                yield piece
            await answer.aclose()

        response = StreamingResponse(body(), answer.status_code)
        response.raw_headers = [(name, value) for name, value in answer.headers.raw if name.lower() not in (b"date",)]
        return response

    return Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST", "PATCH", "DELETE", "HEAD"])])


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@pytest.fixture(params=["/opad", ""], ids=["removes the sub-path", "leaves the sub-path"])
def proxied(settings: Settings, certificate: tuple[Path, Path], request: pytest.FixtureRequest) -> Iterator[str]:
    """The service's public address, `https://localhost:PORT/opad`."""
    servers: list[uvicorn.Server] = []

    def address_of(server: uvicorn.Server) -> str:
        return f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    def start(server: uvicorn.Server) -> str:
        threads.append(threading.Thread(target=server.run))
        servers.append(server)
        threads[-1].start()
        wait_until(lambda: server.started, seconds=60, what="the server's start")
        return address_of(server)

    threads: list[threading.Thread] = []
    front = reverse_proxy(lambda: f"http://{address_of(servers[1])}", removes=request.param)
    tls = {"ssl_certfile": str(certificate[0]), "ssl_keyfile": str(certificate[1])}
    port = start(uvicorn.Server(uvicorn.Config(front, port=0, log_config=None, **tls))).rpartition(":")[2]
    public_url = f"https://localhost:{port}/opad"
    start(make_server(settings.model_copy(update={"port": 0, "public_url": public_url})))
    yield public_url
    for server in servers:
        server.should_exit = True
    for thread in threads:
        thread.join()


def test_every_page_and_request_stays_below_the_sub_path(
    proxied: str, demo_pages: dict[str, str], sessions: Sessions, admin_key: str, new_page: Callable[..., Any]
) -> None:
    with sessions() as db:
        over = len(db.scalars(select(Job.id).where(Job.state.in_([JobState.failed, JobState.cancelled]))).all())
    page = new_page(ignore_https_errors=True)
    asked, failed = [], []
    page.on("request", lambda request: asked.append(urlsplit(request.url)))
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    sign_in(page, proxied, admin_key)
    (cookie,) = page.context.cookies()
    assert cookie["name"] == "__Host-opad"
    for path in demo_pages.values():
        page.goto(proxied + path, wait_until="domcontentloaded")
        links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.getAttribute('href'))")
        assert links
        assert [link for link in links if link.startswith("/") and not link.startswith("/opad/")] == [], path
    page.goto(f"{proxied}/dashboard/jobs")
    act_on_all_jobs(page, "retry", meant=over)
    page.goto(f"{proxied}/dashboard/webhooks")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/opad/dashboard/sign-in")

    own = [request.path for request in asked if request.netloc == urlsplit(proxied).netloc]
    assert [path for path in own if not path.startswith("/opad/")] == []
    assert any("/v1/jobs/" in path for path in own)
    assert failed == []
