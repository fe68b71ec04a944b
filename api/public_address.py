"""The service's address as clients see it: behind a proxy, and below a sub-path such as `/opad/`."""

from contextvars import ContextVar
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.domain.settings import Settings

_root_path: ContextVar[str] = ContextVar("root_path", default="")


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


def public_address(request: Request, settings: Settings) -> str:
    """Return the service's address for examples: `OPAD_PUBLIC_URL`, else the address of the request."""
    return settings.public_url or str(request.base_url).rstrip("/")
