"""The api's asynchronous engine: a pool of connections, each of whose waits ends within seconds."""

from typing import Any

from psycopg import AsyncConnection
from psycopg.abc import RV, PQGen
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from api.domain.database import closed_when_silent
from api.domain.settings import Settings

Sessions = async_sessionmaker[AsyncSession]

_TIMEOUTS = "-c statement_timeout=5s -c idle_in_transaction_session_timeout=60s"
"""A request waits for nobody's lock for longer, and a frozen api holds none for ever."""
_ANSWER_SECONDS = 6.0
"""A second more than a statement may take: the server's own answer about that is better than our giving up."""


class _Connection(AsyncConnection[Any]):
    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        with closed_when_silent(self.pgconn):
            return await super().wait(gen, interval, timeout or _ANSWER_SECONDS)


def create_engine(settings: Settings) -> AsyncEngine:
    """No wait is longer than some seconds, so that a dead or frozen database is an answer and not a hanging request."""
    return create_async_engine(
        settings.sqlalchemy_url,
        pool_size=10,
        max_overflow=10,
        pool_timeout=5,
        pool_pre_ping=True,
        connect_args={"async_creator_fn": _Connection.connect, "connect_timeout": 3, "options": _TIMEOUTS},
    )
