"""What leaves this machine takes the way that the environment says: through its proxy, with its authorities."""

from ipaddress import IPv4Address
from urllib.parse import urlsplit

import pytest

from api.domain import jobs, webhooks
from api.domain.tables import Job, Webhook, WebhookDelivery
from api.domain.webhooks import new_secret
from tests.environment.conftest import PROXY_VARIABLES
from tests.job_life import make_job, sessions  # noqa: F401  pytest finds fixtures by their names here
from worker import webhooks as sending

PUBLIC = "8.8.8.8"


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch):
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def deliver(settings, make_job, sessions):  # noqa: F811  the fixtures above
    """Send one message to a URL and return the log entry of the try."""

    def send(url: str, *, private_allowed: bool = False) -> dict:
        job_id = make_job()
        with sessions.begin() as db:
            owner = db.get_one(Job, job_id).owner_id
            db.add(Webhook(owner_id=owner, url=url, events=list(webhooks.JOB_EVENTS), secret=new_secret()))
            db.flush()
            db.execute(jobs.request_cancel(job_id)).one()
        allowed = settings.model_copy(update={"webhooks_to_private_addresses": private_allowed})
        assert sending.deliver_due(allowed, sessions) == 1
        with sessions() as db:
            (entry,) = db.query(WebhookDelivery).one().log
        return entry

    return send


@pytest.mark.parametrize(
    ("name", "scheme", "greeting"),
    [
        ("HTTPS_PROXY", "http://", f"CONNECT {PUBLIC}:443 HTTP/1.1".encode()),
        ("ALL_PROXY", "http://", f"CONNECT {PUBLIC}:443 HTTP/1.1".encode()),
        ("https_proxy", "", f"CONNECT {PUBLIC}:443 HTTP/1.1".encode()),
        ("ALL_PROXY", "socks5://", b"\x05\x01\x00"),  # version 5, one way to sign in: none (RFC 1928, section 3)
    ],
)
def test_a_webhook_to_a_public_address_takes_the_proxy(deliver, proxy, monkeypatch, name, scheme, greeting):
    monkeypatch.setenv(name, f"{scheme}{proxy.address}")
    assert deliver(f"https://{PUBLIC}/hook")["status"] is None  # the proxy hangs up
    (came,) = proxy.came
    assert came.startswith(greeting)


def test_no_proxy_names_the_hosts_that_are_called_directly(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "example.org")
    chosen = {
        url: sending.proxy_for(urlsplit(url), [IPv4Address(PUBLIC)])
        for url in ("https://example.org/hook", "https://hooks.example.org/hook", "https://example.com/hook")
    }
    assert list(chosen.values()) == [None, None, "http://127.0.0.1:1"]


def test_a_webhook_to_this_machine_takes_no_proxy(deliver, proxy, monkeypatch):
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{proxy.address}")
    assert deliver("http://127.0.0.1:1/hook", private_allowed=True)["error"] == "ConnectError"
    assert proxy.came == []


def test_a_proxy_that_is_no_address_costs_a_try_and_not_the_reconciler(deliver, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "gopher://proxy")
    assert deliver(f"https://{PUBLIC}/hook")["error"] == "HTTPS_PROXY or ALL_PROXY is no address of a proxy; correct it"


def test_authorities_that_cannot_be_read_do_not_stop_deliveries(deliver, proxy, monkeypatch, tmp_path):
    (tmp_path / "authorities.pem").write_text("none")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authorities.pem"))
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    deliver(f"https://{PUBLIC}/hook")
    assert len(proxy.came) == 1
