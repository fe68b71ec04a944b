"""What is more than the engines can draw is refused at the door, for next to nothing.

An engine refuses by its own queue too; but a request that it refuses has been parsed, looked up and passed on by then,
and where api and engine share cores, that time is taken from the pictures. So each process of the api has at most as
many requests for pictures under way as the engines' queues hold.
"""

import math
import time

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import problem

UNDER_WAY_PER_ENGINE = 48
"""Less than an engine lets wait (64 pictures), so that its queue stays the judge of what a deadline allows."""
_DRAWING = {"/v1/generate", "/generate", "/v1/images/generations"}


class Shedding:
    def __init__(self, app: ASGIApp, *, engines: int) -> None:
        self._app = app
        self._most = UNDER_WAY_PER_ENGINE * max(1, engines)
        self._under_way = 0
        self._seconds = 1.0
        """Of a request that was let in, smoothed: what a newcomer would wait when all places are taken."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in _DRAWING or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._most:
            await self._refuse(scope, receive, send)
            return
        self._under_way += 1
        began = time.monotonic()
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1
            self._seconds += 0.1 * (time.monotonic() - began - self._seconds)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        retry_after = max(1, math.ceil(self._seconds))
        answer = problem(
            Request(scope),
            503,
            "overloaded",
            f"all engines are busy; please try again in {retry_after} s",
            {"Retry-After": str(retry_after)},
            retry_after=retry_after,
        )
        await answer(scope, receive, send)
