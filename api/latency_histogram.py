"""Count how long generate requests take and how many fail, and add the counts to the database every few seconds.

A request costs no SQL statement. If a process is killed, what it counted since its last write is lost.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from api.db import Sessions
from api.domain.errors import DeadlineExceeded, DomainError, Unavailable
from api.domain.tables import GenerateHistogram

log = structlog.get_logger()

OK = "ok"
SLOT_SECONDS = 300
_GROWTH = 1.15
"""Factor from one bucket's bound to the next. It makes a quantile accurate to 7 %."""
_LAST_BUCKET = 90
"""The last bucket: 1.15 ** 90 ms is five minutes."""
_WRITE_SECONDS = 5.0
_RETENTION = timedelta(days=8)


def bucket_of(seconds: float) -> int:
    return min(_LAST_BUCKET, max(0, math.ceil(math.log(max(seconds * 1000, 1), _GROWTH))))


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """Return the quantile in milliseconds, as the geometric middle of its bucket; None without requests."""
    wanted = share * sum(counts.values())
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= wanted and seen:
            return _GROWTH ** (bucket - 0.5)
    return None


class LatencyHistogram:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._counts: Counter[tuple[datetime, UUID, str, int]] = Counter()

    @contextmanager
    def observed(self, owner_id: UUID) -> Iterator[None]:
        """Time the block and count it. A client's error or a closed connection is not counted."""
        began = time.perf_counter()
        outcome: str | None = "internal"
        try:
            yield
            outcome = OK
        except (Unavailable, DeadlineExceeded) as error:
            outcome = error.code
            raise
        except (DomainError, asyncio.CancelledError):  # the client made a mistake or disconnected
            outcome = None
            raise
        finally:
            if outcome is not None:
                now = time.time()
                slot = datetime.fromtimestamp(now - now % SLOT_SECONDS, UTC)
                self._counts[slot, owner_id, outcome, bucket_of(time.perf_counter() - began)] += 1

    async def keep_writing(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Add the counts to the database. If that fails, they are kept for the next write."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        rows = [
            {"slot": slot, "owner_id": owner_id, "outcome": outcome, "bucket": bucket, "count": count}
            for (slot, owner_id, outcome, bucket), count in sorted(counts.items(), key=lambda item: str(item[0]))
        ]
        statement = insert(GenerateHistogram)
        added = statement.on_conflict_do_update(
            index_elements=["slot", "owner_id", "outcome", "bucket"],
            set_={"count": GenerateHistogram.count + statement.excluded.count},
        )
        try:
            async with self._sessions.begin() as session:
                await session.execute(added, rows)
                await session.execute(delete(GenerateHistogram).where(GenerateHistogram.slot < func.now() - _RETENTION))
        except SQLAlchemyError as error:
            log.warning("histogram.write_failed", error=type(error).__name__)
            self._counts.update(counts)
