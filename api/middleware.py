"""Wrap every request: a request id, security headers, limits on the body's size and time, one log line."""

import asyncio
import re
import time
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.limits import header_fields

log = structlog.get_logger()

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # under no-referrer Chromium sends `Origin: null` with our own forms
    "Cross-Origin-Resource-Policy": "same-origin",
}


_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
"""A host and an optional port, and no character that would begin a path in a URL."""

_UPLOADS = {"/v1/concepts", "/concepts", "/v1/verify"}
_BODY_BYTES = 1 << 20
_IMAGE_BYTES = 8 << 20
"""A PNG of 1024 x 1024 pixels, at its largest, in base64."""


class RequestFrame:
    """Middleware for every request. Its log line has the route's template and our ids, never a prompt, image or key."""

    def __init__(self, app: ASGIApp, *, upload_bytes: int, body_seconds: float) -> None:
        """Limit the body: an upload to `upload_bytes`, an image to store to 8 MiB, any other to 1 MiB.

        The next piece of a body must arrive within `body_seconds`.
        """
        self._app = app
        self._max_bytes = dict.fromkeys(_UPLOADS, upload_bytes) | {"/v1/images": _IMAGE_BYTES}
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid4().hex[:16]
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status = 500

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                windows = scope["state"].get("rate_limits")
                if windows:
                    headers.update(header_fields(windows))
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", "max-age=31536000")
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id)  # valid in this request's task only
        try:
            request_headers = Headers(scope=scope)
            max_bytes = self._max_bytes.get(scope["path"], _BODY_BYTES)
            hosts = request_headers.getlist("host")
            if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
                detail = "there must be one Host header, a host with an optional port; send the service's own host"
                await errors.problem(Request(scope), 400, "bad_host", detail)(scope, receive, framed)
            elif int(request_headers.get("content-length", "0")) > max_bytes:  # uvicorn checked that it is a number
                detail = f"the request body is longer than the {max_bytes} bytes that this route accepts"
                await errors.problem(Request(scope), 413, "body_too_large", detail)(scope, receive, framed)
            else:
                await self._app(scope, _bounded(receive, max_bytes=max_bytes, seconds=self._body_seconds), framed)
        finally:
            route = scope.get("route")
            log.info(
                "http.request",
                method=scope["method"],
                route=getattr(route, "path", None),
                status=status,
                ms=round((time.perf_counter() - began) * 1000, 1),
                request_id=request_id,
            )


def _bounded(receive: Receive, *, max_bytes: int, seconds: float) -> Receive:
    """Wrap `receive`: give up on a body that stops half-way (uvicorn waits for ever) or is longer than `max_bytes`."""
    is_whole = False
    size = 0

    async def receive_in_time() -> Message:
        nonlocal is_whole, size
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout(seconds):
                message = await receive()
        except TimeoutError:
            detail = f"the rest of the request did not arrive within {seconds:.0f} s; send it again"
            raise HTTPException(408, detail, headers={"Connection": "close"}) from None
        is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        size += len(message.get("body", b""))
        if size > max_bytes:
            raise HTTPException(413, headers={"Connection": "close"})
        return message

    return receive_in_time
