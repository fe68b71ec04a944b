"""The api's asynchronous database engine."""

from typing import Any

from psycopg import AsyncConnection
from psycopg.abc import RV, PQGen
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from api.domain.database import closed_on_timeout
from api.domain.settings import Settings

Sessions = async_sessionmaker[AsyncSession]

_TIMEOUTS = "-c statement_timeout=5s -c idle_in_transaction_session_timeout=60s"
"""No request waits longer for a lock, and a frozen api process does not hold one for ever."""
_ANSWER_SECONDS = 6.0
"""One second more than a statement may take, so that the server's own timeout error comes first."""


class _Connection(AsyncConnection[Any]):
    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        with closed_on_timeout(self.pgconn):
            return await super().wait(gen, interval, timeout or _ANSWER_SECONDS)


def create_engine(settings: Settings) -> AsyncEngine:
    """Create the engine. Every wait ends within seconds, so a dead database gives an error, not a hanging request."""
    return create_async_engine(
        settings.sqlalchemy_url,
        pool_size=10,
        max_overflow=10,
        pool_timeout=5,
        pool_pre_ping=True,
        connect_args={"async_creator_fn": _Connection.connect, "connect_timeout": 3, "options": _TIMEOUTS},
    )
