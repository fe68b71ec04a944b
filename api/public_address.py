"""Serve the service below a sub-path of a proxy, such as `/opad/`, and tell its own pages from those of other sites."""

from contextvars import ContextVar
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.services import services_of

_root_path: ContextVar[str] = ContextVar("root_path", default="")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class PublicAddress:
    """Middleware that removes the sub-path of `OPAD_PUBLIC_URL`. A proxy may remove it too, or leave it."""

    def __init__(self, app: ASGIApp, *, public_url: str | None) -> None:
        self._app = app
        self._root_path = urlsplit(public_url or "").path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = self._root_path
        _root_path.set(root)
        if scope["type"] == "http" and root and f"{scope['path']}/".startswith(f"{root}/"):
            scope = {**scope, "path": scope["path"].removeprefix(root) or "/"}
        await self._app(scope, receive, send)


def root() -> str:
    """Return the sub-path of `OPAD_PUBLIC_URL`, for instance `/opad`, or nothing."""
    return _root_path.get()


def link(path: str) -> str:
    """Return a path of the service as clients see it: `/opad/v1/jobs` for `/v1/jobs` below `/opad`."""
    return root() + path


def public_address(request: Request) -> str:
    """Return the service's address for examples: `OPAD_PUBLIC_URL`, else the address of the request."""
    return services_of(request).settings.public_url or str(request.base_url).rstrip("/")


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
