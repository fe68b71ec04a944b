"""Check a webhook's address: only the public internet, unless the settings allow private networks.

A host name is resolved and checked at each use, and the connection goes to one of the checked addresses.
"""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from api.domain.errors import Invalid

Address = IPv4Address | IPv6Address

PUBLIC_PORTS = (443, 8443)
_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")
SPECIAL = tuple(
    ip_network(text)
    for text in (
        # IANA's IPv4 Special-Purpose Address Registry as of October 2024, and multicast (RFC 5771)
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        # IANA's IPv6 Special-Purpose Address Registry as of 22 October 2024, inside 2000::/3; all else there is refused
        "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
    )
)  # fmt: skip
"""Networks that no webhook goes to. Python's `is_global` calls some of them global."""


def split(url: str, *, private_allowed: bool) -> SplitResult:
    """Parse the URL. Raises Invalid for one that is not allowed whatever its host resolves to."""
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise Invalid(f"{url!r} has characters that a URL cannot have; percent-encode them", "webhook_url")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Invalid(f"{url!r} is no URL: {error}", "webhook_url") from error
    schemes = ("https", "http") if private_allowed else ("https",)
    if parts.scheme not in schemes or not parts.hostname:
        raise Invalid(f"{url!r} must be an absolute URL with {' or '.join(schemes)}", "webhook_url")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise Invalid("a webhook's URL must not contain a user, password or #fragment; remove them", "webhook_url")
    if not private_allowed and port not in (None, *PUBLIC_PORTS):
        raise Invalid(f"port {port} is not allowed for webhooks; use one of {PUBLIC_PORTS}", "webhook_url")
    return parts


def resolve(host: str, port: int, *, private_allowed: bool) -> list[Address]:
    """Resolve the host now. Blocks. Raises Invalid if it has no address, or one that is not allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Invalid(f"the name {host!r} cannot be resolved; check its spelling", "webhook_url") from error
    addresses = list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))
    if not private_allowed and not all(map(is_public, addresses)):
        raise Invalid(
            f"{host!r} is an address of a private network; OPAD_WEBHOOKS_TO_PRIVATE_ADDRESSES=true allows those",
            "webhook_url",
        )
    return addresses


def is_public(address: Address) -> bool:
    """Return whether the address is on the public internet. An IPv4 address inside an IPv6 one counts as itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped or address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in _GLOBAL_UNICAST:
            return False
    return not any(address in network for network in SPECIAL)
