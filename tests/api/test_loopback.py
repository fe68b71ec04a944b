"""Commands on the pages keep keys and photos on this machine where the service runs on it."""

import pytest
from fastapi.testclient import TestClient

from api.loopback import curl_for, is_loopback


@pytest.mark.parametrize("host", ["localhost", "opad.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_is_reached_without_a_proxy(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "example.org", "localhost.example.org", "192.168.0.7", "0.0.0.0"])
def test_other_machines_may_be_behind_one(host: str) -> None:
    assert not is_loopback(host)
    assert curl_for(f"https://{host}:8443/") == "curl"


def test_the_commands_of_the_reference_use_no_proxy_on_loopback_only(anonymous: TestClient) -> None:
    option = "curl --noproxy &#39;*&#39; http://localhost/v1/"
    assert option in anonymous.get("/docs").text
    elsewhere = anonymous.get("/docs", headers={"Host": "opad.example"}).text
    assert "curl http://opad.example/v1/" in elsewhere
    assert "noproxy" not in elsewhere


def test_the_address_of_a_page_may_have_a_port_and_brackets() -> None:
    assert curl_for("http://[::1]:8000/") == "curl --noproxy '*'"
