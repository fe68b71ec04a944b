"""The service behind a TLS proxy, and below a sub-path of one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
import redis
from fastapi.testclient import TestClient

from api.__main__ import make_server
from api.app import create_app
from api.dashboard.sign_in import TRIES_PER_MINUTE
from api.domain.settings import Settings
from tests.api.reference_images import reference
from tests.job_life import wait_until

ON_PUBLIC_PORT = {"Host": "opad.example", "Origin": "https://opad.example:8443"}


@contextmanager
def app_at(public_url: str | None, settings: Settings) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update={"public_url": public_url}))
    with TestClient(app, base_url="https://opad.example", follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize(
    ("public_url", "headers", "status"),
    [
        # nginx sends the address of its upstream as Host, unless it is told otherwise
        (None, {"Host": "127.0.0.1:8000", "Origin": "https://opad.example", "Sec-Fetch-Site": "same-origin"}, 303),
        (None, {"Host": "opad.example:443", "Origin": "https://opad.example"}, 303),
        (None, {"Host": "opad.example", "Origin": "https://opad.example:443"}, 303),
        (None, ON_PUBLIC_PORT | {"Sec-Fetch-Site": "same-origin"}, 303),
        (None, ON_PUBLIC_PORT, 403),
        ("https://opad.example:8443/opad", ON_PUBLIC_PORT, 303),
        ("https://opad.example:8443", {"Origin": "https://evil.example"}, 403),
        (None, {"Host": "opad.example", "Origin": "http://opad.example"}, 403),
        (None, {"Host": "opad.example", "Origin": "null"}, 403),
        (None, {"Host": "opad.example", "Origin": "https://opad.example:x"}, 403),
        (None, {"Origin": "https://opad.example", "Sec-Fetch-Site": "cross-site"}, 403),
        (None, {"Origin": "https://opad.example", "Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_a_sign_in_is_known_as_our_own_behind_any_proxy(
    api_settings: Settings,
    new_key: Callable[..., str],
    public_url: str | None,
    headers: dict[str, str],
    status: int,
) -> None:
    with app_at(public_url, api_settings) as browser:
        answer = browser.post("/dashboard/sign-in", data={"key": new_key()}, headers=headers)

    assert answer.status_code == status


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Serve, and yield the address."""
    server = make_server(settings.model_copy(update={"port": 0}))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, seconds=60, what="the server's start")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def no_sign_ins(api_settings: Settings) -> Iterator[None]:
    """Forget the sign-ins of the last minute before and after: all tests come from one address."""

    def forget() -> None:
        socket = str(api_settings.redis_url).removeprefix("redis+socket://").split("?")[0]
        with redis.Redis(unix_socket_path=socket) as client:
            for key in client.scan_iter("*sign_ins*"):
                client.delete(key)

    forget()
    yield
    forget()


@pytest.mark.usefixtures("no_sign_ins")
@pytest.mark.parametrize(("public_url", "is_limited"), [(None, True), ("https://opad.example", False)])
def test_a_program_here_escapes_the_limit_of_sign_ins_only_as_the_named_proxy(
    api_settings: Settings, public_url: str | None, is_limited: bool
) -> None:
    """With the address of a proxy, this machine is where the proxy runs, and its clients are counted one by one."""
    with serving(api_settings.model_copy(update={"public_url": public_url})) as address:
        answers = [
            httpx.post(
                f"{address}/dashboard/sign-in", data={"key": "wrong"}, trust_env=False,
                headers={"Host": "localhost", "X-Forwarded-For": f"203.0.113.{number}"},
            ).status_code
            for number in range(TRIES_PER_MINUTE + 1)
        ]  # fmt: skip
    assert (429 in answers) == is_limited
    assert set(answers[:TRIES_PER_MINUTE]) == {401}


@pytest.mark.parametrize(("trusted", "is_believed"), [("127.0.0.1", True), ("127.0.0.0/8", True), ("10.9.8.7", False)])
def test_forwarded_headers_are_believed_from_trusted_proxies_only(
    api_settings: Settings,
    new_key: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    trusted: str,
    is_believed: bool,
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's own variable
    with serving(api_settings.model_copy(update={"trusted_proxies": trusted})) as address:
        answer = httpx.post(
            f"{address}/dashboard/sign-in",
            data={"key": new_key()},
            headers={"Host": "opad.example", "X-Forwarded-Proto": "https"},
            trust_env=False,
        )

    assert answer.headers.get("set-cookie", "").startswith("__Host-opad=") == is_believed
    assert answer.status_code == (303 if is_believed else 403)
    if not is_believed:
        assert "OPAD_TRUSTED_PROXIES must contain its address" in answer.text


@pytest.mark.parametrize("sent", ["/opad", ""], ids=["the proxy leaves the sub-path", "the proxy removes it"])
def test_every_address_below_a_sub_path_contains_it(
    api_settings: Settings, new_key: Callable[..., str], base: None, sent: str
) -> None:
    photos = [("images", reference(number)) for number in range(3)]
    form = {"name": "my mug", "class_noun": "mug", "consent": "true"}
    with app_at("https://opad.example/opad", api_settings) as client:
        signed_out = client.get(f"{sent}/dashboard/jobs")
        front = client.get(f"{sent}/")
        signed_in = client.post(f"{sent}/dashboard/sign-in", data={"key": new_key(), "next": "/dashboard/jobs"})
        client.headers["Authorization"] = f"Bearer {new_key()}"
        created = client.post(f"{sent}/concepts", data=form, files=photos)
        concept = client.get(created.headers["location"]).json()
        photo = client.get(concept["references"][0]["url"])
        script = client.get(f"{sent}/static/app.js")
        document = client.get(f"{sent}/openapi.json").json()
        reference_page = client.get(f"{sent}/docs").text

    assert signed_out.headers["location"] == "/opad/dashboard/sign-in?next=/dashboard/jobs"
    assert front.headers["location"] == "/opad/dashboard"
    assert signed_in.headers["location"] == "/opad/dashboard/jobs"
    assert created.headers["location"] == f"/opad/v1/concepts/{concept['id']}"
    assert photo.request.url.path.startswith("/opad/v1/concepts/")
    assert photo.headers["content-type"].startswith("image/")
    assert "javascript" in script.headers["content-type"]
    assert document["servers"] == [{"url": "https://opad.example/opad"}]
    assert "https://opad.example/opad/v1/generate" in reference_page


def test_only_the_whole_sub_path_is_removed(api_settings: Settings) -> None:
    with app_at("https://opad.example/opad", api_settings) as client:
        assert client.get("/opadx/healthz").status_code == 404
        assert client.get("/opad/opad/healthz").status_code == 404
        assert client.get("/opad/healthz").status_code == 200
        assert client.get("/opad").headers["location"] == "/opad/dashboard"
