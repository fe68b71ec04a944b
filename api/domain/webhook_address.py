"""Check a webhook's address: only the public internet, unless the settings allow private networks.

A host name is resolved and checked at each use, and the connection goes to one of the checked addresses.
"""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from api.domain.errors import Invalid

Address = IPv4Address | IPv6Address

PUBLIC_PORTS = (443, 8443)
_EMBEDS_IPV4 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))


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
    """Return whether the address is public, also for an IPv4 address inside an IPv6 one."""
    if isinstance(address, IPv6Address):
        hidden = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if hidden is None and any(address in network for network in _EMBEDS_IPV4):
            hidden = IPv4Address(int(address) & 0xFFFF_FFFF)
        if hidden:
            return is_public(hidden)
    return address.is_global and not address.is_multicast and not address.is_reserved
