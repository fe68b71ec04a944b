"""The settings, connections and shared objects of one api process, and the dependencies that give them to routes."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from celery import Celery
from fastapi import Depends, Request
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.db import Sessions, create_engine
from api.decoder import Decoder
from api.dispatch import create_notifier
from api.domain import failpoints
from api.domain.clocks import Watch, ahead_of_database
from api.domain.denied_words import DeniedWords
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.engine_client import EngineClient
from api.image_check import ImageCheck
from api.image_receipts import ReceiptSigner
from api.latency_histogram import LatencyHistogram
from api.rate_limiter import RateLimiter

_MEASURE_SECONDS = 60


@dataclass(frozen=True)
class Services:
    """Everything that a route uses beside its request."""

    settings: Settings
    sessions: Sessions
    storage: Storage
    engines: EngineClient
    limiter: RateLimiter
    notifier: Celery
    denied_words: DeniedWords
    image_check: ImageCheck
    receipts: ReceiptSigner
    decoder: Decoder
    latency_histogram: LatencyHistogram
    open_streams: Counter[UUID]
    """Number of a key's event streams in this process."""
    is_stopping: Callable[[], bool]
    """Returns True after the server was asked to stop: event streams end, and /readyz fails."""


@asynccontextmanager
async def open_services(settings: Settings, is_stopping: Callable[[], bool]) -> AsyncIterator[Services]:
    """Open the connections, and close them at the end of the block. Raises ValueError for unusable settings."""
    engine = create_engine(settings)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    services = Services(
        settings=settings,
        sessions=sessions,
        storage=Storage(settings, short_timeouts=True),
        engines=EngineClient(settings.engine_urls, timeout_seconds=settings.generate_timeout_seconds),
        limiter=RateLimiter(settings.redis_url),
        notifier=create_notifier(settings),
        denied_words=DeniedWords.read(settings.denied_words),
        image_check=ImageCheck(settings),
        # without a secret of the store, receipts are valid in this process only
        receipts=ReceiptSigner(settings.s3_secret_key.get_secret_value() or secrets.token_hex()),
        decoder=Decoder(heic=settings.heic),
        latency_histogram=LatencyHistogram(sessions),
        open_streams=Counter(),
        is_stopping=is_stopping,
    )
    counting = asyncio.create_task(services.latency_histogram.keep_writing())
    measuring = asyncio.create_task(_keep_measuring(services.storage, sessions))
    yield services
    counting.cancel()
    measuring.cancel()
    await services.latency_histogram.write()
    await services.engines.close()
    await services.limiter.close()
    services.notifier.close()
    await engine.dispose()


async def _keep_measuring(storage: Storage, sessions: Sessions) -> None:
    """Compare our clock with the others' every minute. Writes one line to the log when one becomes wrong."""
    own, store = Watch("the api", "the database"), Watch("the object store", "the api")
    while True:
        with suppress(SQLAlchemyError):  # the next minute will do
            async with sessions() as session:
                own.note(await session.run_sync(ahead_of_database))
        store.note(storage.clock.ahead)
        await asyncio.sleep(_MEASURE_SECONDS)


def services_of(request: Request) -> Services:
    """Return the services of the application that handles this request."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    """Return the same for FastAPI, which would call a plain function in another thread."""
    return services_of(request)


ServicesDep = Annotated[Services, Depends(_services)]


async def _session(services: ServicesDep) -> AsyncIterator[AsyncSession]:
    """Open the request's transaction. It is committed before the answer is sent, or rolled back on an error."""
    async with services.sessions() as opened:
        yield opened
        failpoints.reach("request.committing")
        await opened.commit()
        failpoints.reach("request.committed")


SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
