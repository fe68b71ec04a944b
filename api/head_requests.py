"""Answer HEAD wherever GET is answered, with the same headers and no body (RFC 9110, section 9.3.2)."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """Middleware that runs the GET route and sends only its headers. Starlette's routes do that, FastAPI's do not.

    A route that streams without an end, such as a job's events, is told that the client has left.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}
        is_asked, is_answered = False, asyncio.Event()

        async def receive_no_body() -> Message:
            nonlocal is_asked
            if not is_asked:
                is_asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await is_answered.wait()
            return {"type": "http.disconnect"}

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                is_answered.set()

        try:
            await self._app(as_get, receive_no_body, send_headers)
        finally:
            scope["route"] = as_get.get("route")  # for the log line
