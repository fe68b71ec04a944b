"""Load shedding: refuse what is too much before any work is done for it.

Generate requests are refused beyond the engines' capacity, and all requests beyond MAX_OPEN. An engine's own queue
refuses requests too. But by then the api has parsed the request, queried the database and sent it on, and where api and
engine share cores, that time is missing for images. So each api process handles at most as many generate requests at
the same time as the engines' queues hold.
"""

import math
import time

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import problem

IN_FLIGHT_PER_ENGINE = 48
"""Less than an engine's queue holds (64 images), so that the engine still decides what its deadline allows."""
_GENERATE_PATHS = {"/v1/generate", "/generate", "/v1/images/generations"}


MAX_OPEN = 500
"""Requests that an api process works on at the same time."""
_PROBES = {"/healthz", "/readyz"}


class OpenRequests:
    """Refuse requests beyond MAX_OPEN, but never a probe: a crowded process is not a dead one."""

    def __init__(self, app: ASGIApp, *, at_most: int = MAX_OPEN) -> None:
        self._app = app
        self._at_most = at_most
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        if self._open >= self._at_most:
            detail = f"the service works on {self._at_most} requests already; try again in a few seconds"
            answer = problem(Request(scope), 503, "crowded", detail, {"Retry-After": "5"}, retry_after=5)
            await answer(scope, receive, send)
            return
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1


class LoadShedding:
    def __init__(self, app: ASGIApp, *, engines: int) -> None:
        self._app = app
        self._max_in_flight = IN_FLIGHT_PER_ENGINE * max(1, engines)
        self._in_flight = 0
        self._mean_seconds = 1.0
        """Smoothed duration of an accepted request: the wait for a free place when all are taken."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in _GENERATE_PATHS or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._in_flight >= self._max_in_flight:
            await self._refuse(scope, receive, send)
            return
        self._in_flight += 1
        began = time.monotonic()
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1
            self._mean_seconds += 0.1 * (time.monotonic() - began - self._mean_seconds)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        retry_after = max(1, math.ceil(self._mean_seconds))
        answer = problem(
            Request(scope),
            503,
            "overloaded",
            f"all engines are busy; try again in {retry_after} s",
            {"Retry-After": str(retry_after)},
            retry_after=retry_after,
        )
        await answer(scope, receive, send)
