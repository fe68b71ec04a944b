"""The workers' way to the database: synchronous, one fresh connection for each unit of work.

A worker speaks to the database every few seconds at most. Without a pool nothing stale survives a restart of the
server, and nothing is shared across a fork. The api has its own, asynchronous engine in `api.db`.
"""

from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.orm import Session, sessionmaker

from api.domain.settings import Settings

Sessions = sessionmaker[Session]

_TIMEOUTS = "-c statement_timeout=15s -c lock_timeout=5s -c idle_in_transaction_session_timeout=10s"
"""A frozen client must not hold a row lock, and a worker must not wait for one for longer than its lease allows."""


def make_engine(settings: Settings) -> Engine:
    return create_engine(
        settings.sqlalchemy_url,
        poolclass=NullPool,
        connect_args={"connect_timeout": 5, "tcp_user_timeout": 15_000, "options": _TIMEOUTS},
    )


def make_sessions(settings: Settings) -> Sessions:
    """`with make_sessions(settings).begin() as session:` is one transaction."""
    return sessionmaker(make_engine(settings), expire_on_commit=False)
