"""The api's view of the database: one request, one transaction, committed before the answer is sent."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from api.domain import failpoints
from api.domain.settings import Settings

Sessions = async_sessionmaker[AsyncSession]


def create_engine(settings: Settings) -> AsyncEngine:
    """Waits at most 5 s for a connection, so that a dead database is an answer and not a hanging request."""
    return create_async_engine(
        settings.sqlalchemy_url,
        pool_size=10,
        max_overflow=10,
        pool_timeout=5,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 5},
    )


async def session(request: Request) -> AsyncIterator[AsyncSession]:
    """A route that raises is rolled back; one that returns is committed before its first byte leaves."""
    sessions: Sessions = request.app.state.sessions
    async with sessions() as opened:
        yield opened
        failpoints.reach("request.committing")
        await opened.commit()
        failpoints.reach("request.committed")


SessionDep = Annotated[AsyncSession, Depends(session, scope="function")]
