"""The workers' synchronous database engine: a new connection for each transaction.

A worker uses the database every few seconds at most. Without a pool, no dead connection survives a restart of the
server, and none is shared across a fork. The api has its own, asynchronous engine in `api.db`.
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
"""A frozen client must not hold a row lock, and a worker must not wait for one longer than its lease lasts."""
_ANSWER_SECONDS = 20.0
"""A frozen server accepts statements and never finishes one, so the client has a timeout of its own."""


@contextmanager
def closed_on_timeout(connection: PGconn) -> Iterator[None]:
    """Close a connection after a timeout: it would take the late answer for that of the next statement."""
    try:
        yield
    except OperationalError:
        connection.finish()
        raise


class _Connection(Connection[Any]):
    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        with closed_on_timeout(self.pgconn):
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
