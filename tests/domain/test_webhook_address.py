from ipaddress import ip_address

import pytest

from api.domain import webhook_address
from api.domain.errors import Invalid


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "10.0.0.5", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
        "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "::127.0.0.1", "2001:db8::1",
        # reserved, discard-only, dummy prefix, segment routing, site-local, and mapped addresses of special networks
        "200::1", "100::1", "100:0:0:1::1", "5f00::1", "fec0::1", "::ffff:192.88.99.1", "64:ff9b::c058:6301",
    ],
)  # fmt: skip
def test_private_addresses_in_any_notation(text: str) -> None:
    assert not webhook_address.is_public(ip_address(text))


IN_A_ROW = [
    "0.1.2.3", "10.1.2.3", "100.127.0.1", "127.8.8.8", "169.254.1.1", "172.31.0.1", "192.0.0.8", "192.0.2.1",
    "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.0.1", "192.175.48.1", "198.19.0.1", "198.51.100.1",
    "203.0.113.1", "239.0.0.1", "250.0.0.1", "2001:1::1", "2001:db8::1", "2002:101:101::1", "2620:4f:8000::1",
    "3fff::1",
]  # fmt: skip
"""An address of each row of the registries, some of which Python calls global."""


@pytest.mark.parametrize("text", IN_A_ROW)
def test_no_special_address_is_public(text: str) -> None:
    assert not webhook_address.is_public(ip_address(text))


def test_every_row_is_tried() -> None:
    addresses = [ip_address(text) for text in IN_A_ROW]
    assert all(any(address in network for address in addresses) for network in webhook_address.SPECIAL)


@pytest.mark.parametrize("text", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses(text: str) -> None:
    assert webhook_address.is_public(ip_address(text))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/", "ftp://example.org/", "example.org", "https://", "https:///x", "https://user@example.org/",
        "https://example.org/#x", "https://example.org:22/", "https://example.org:99999/", "https://exa mple.org/",
        "https://example.org/\n", "https://ex\u00e4mple.org/", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_no_url_for_a_webhook(url: str) -> None:
    with pytest.raises(Invalid):
        webhook_address.split(url, private_allowed=False)


def test_a_name_with_one_private_address_is_refused_whole() -> None:
    for host in ("localhost", "127.1", "0x7f000001", "017700000001"):
        with pytest.raises(Invalid, match="private network"):
            webhook_address.resolve(host, 443, private_allowed=False)
    assert webhook_address.resolve("127.1", 443, private_allowed=True) == [ip_address("127.0.0.1")]


def test_a_name_without_addresses_is_refused() -> None:
    with pytest.raises(Invalid, match="cannot be resolved"):
        webhook_address.resolve("no-such-name.invalid", 443, private_allowed=True)
