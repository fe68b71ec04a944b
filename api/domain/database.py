"""The workers' way to the database: synchronous, one fresh connection for each unit of work.

A worker speaks to the database every few seconds at most. Without a pool nothing stale survives a restart of the
server, and nothing is shared across a fork. The api has its own, asynchronous engine in `api.db`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import Connection, OperationalError
from psycopg.abc import RV, PQGen
from psycopg.pq.abc import PGconn
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.orm import Session, sessionmaker

from api.domain.settings import Settings

Sessions = sessionmaker[Session]

_TIMEOUTS = "-c statement_timeout=15s -c lock_timeout=5s -c idle_in_transaction_session_timeout=10s"
"""A frozen client must not hold a row lock, and a worker must not wait for one for longer than its lease allows."""
_ANSWER_SECONDS = 20.0
"""A server that is frozen takes every statement in and ends none, whatever the time it was told."""


@contextmanager
def closed_when_silent(connection: PGconn) -> Iterator[None]:
    """A connection whose answer was given up would take it for that to the next statement."""
    try:
        yield
    except OperationalError:
        connection.finish()
        raise


class _Connection(Connection[Any]):
    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        with closed_when_silent(self.pgconn):
            return super().wait(gen, interval, timeout or _ANSWER_SECONDS)


def make_engine(settings: Settings) -> Engine:
    address = settings.sqlalchemy_url.replace("postgresql+psycopg://", "postgresql://", 1)
    return create_engine(
        settings.sqlalchemy_url,
        poolclass=NullPool,
        creator=lambda: _Connection.connect(address, connect_timeout=5, tcp_user_timeout=15_000, options=_TIMEOUTS),
    )


def make_sessions(settings: Settings) -> Sessions:
    """`with make_sessions(settings).begin() as session:` is one transaction."""
    return sessionmaker(make_engine(settings), expire_on_commit=False)
