"""Tell requests of our own pages from those of other sites."""

from urllib.parse import urlsplit

from starlette.requests import Request

from api.services import services_of

_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_same_origin(request: Request) -> bool:
    """Return False if the browser says that another site's page made the request.

    Browsers send Sec-Fetch-Site over TLS and to loopback, and no proxy changes it. Without it the Origin must be the
    address of the request, or `OPAD_PUBLIC_URL`.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    public_url = services_of(request).settings.public_url
    own = [f"{request.url.scheme}://{request.headers.get('host', '')}", public_url or ""]
    return origin is None or _origin(origin) in {_origin(url) for url in own} - {None}


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    """Return scheme, host and port, which are the same for `https://name` and `https://name:443`."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:  # the port is not a number
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None
