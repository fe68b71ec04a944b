"""Addresses of this machine, which requests reach without a network and without a proxy."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def curl_for(address: str) -> str:
    """Return `curl`, with the option that keeps HTTP_PROXY from seeing keys and photos on their way to this machine."""
    return "curl --noproxy '*'" if is_loopback(urlsplit(address).hostname or "") else "curl"
