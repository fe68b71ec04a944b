"""Count what each key asked for in the last minute. The Redis-protocol server counts for all api processes.

If that server is away, requests are served without counting, and the log says so.
"""

import math
import time
from dataclasses import dataclass
from uuid import UUID

import redis.asyncio
import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

log = structlog.get_logger()

WINDOW_SECONDS = 60
_ANSWER_SECONDS = 0.25
"""The server is local and answers within milliseconds; a request must not wait for one that hangs."""
_PAUSE_SECONDS = 5.0
"""How long a server that did not answer is left alone."""


@dataclass(frozen=True)
class Window:
    """The rest of a limit, as the RateLimit headers report it."""

    quota: int
    seconds: int
    remaining: int
    reset_seconds: int


class RateLimiter:
    """The counters. The first call opens the connections."""

    def __init__(self, redis_url: str | None) -> None:
        if redis_url is None:
            raise ValueError("OPAD_REDIS_URL is not set; start the embedded servers with `opad up` or set it")
        address = redis_url.replace("redis+socket://", "unix://").replace("virtual_host=", "db=")
        self._pool = redis.asyncio.ConnectionPool.from_url(
            address,
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 1),  # retries once: a pooled connection may have died with a restart
        )
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            connection_pool=self._pool,  # type: ignore[arg-type]  # its annotation allows plain options only
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._away_until = 0.0

    async def close(self) -> None:
        await self._pool.aclose()

    async def answers(self) -> bool:
        try:
            return bool(await redis.asyncio.Redis(connection_pool=self._pool).ping())
        except RedisError:
            return False

    async def take(self, name: str, api_key_id: UUID, *, quota: int, cost: int) -> tuple[bool, Window] | None:
        """Take `cost` units if they fit. Return whether they did and what is left; None while the server is away."""
        if time.monotonic() < self._away_until:
            return None
        item = RateLimitItemPerMinute(quota)
        try:
            fitted = await self._limiter.hit(item, name, str(api_key_id), cost=cost)
            stats = await self._limiter.get_window_stats(item, name, str(api_key_id))
        except RedisError as error:
            self._away_until = time.monotonic() + _PAUSE_SECONDS
            log.error("limits.uncounted", error=type(error).__name__, seconds=_PAUSE_SECONDS)
            return None
        return fitted, Window(quota, WINDOW_SECONDS, stats.remaining, max(0, math.ceil(stats.reset_time - time.time())))
