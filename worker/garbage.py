"""Objects that no row names: photos of an upload that was cut off, checkpoints and bundles of trainers that died.

What is younger than a day may be about to get its row. For what is older two locks see to it that it does not get one
while it is deleted: who stores photos or pictures holds ERASURE shared until there are rows, and bundles are deleted
only while no job runs and none can be claimed. A checkpoint's key holds a fence, so nobody writes it a second time.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from uuid import UUID

import structlog
from sqlalchemy import func, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from api.domain.database import Sessions
from api.domain.storage import ERASURE, Storage
from api.domain.tables import Bundle, Checkpoint, Export, Image, Job, JobState, Reference

log = structlog.get_logger()

KEPT = timedelta(hours=24)
_BATCH = 50
"""Keys looked at under one hold of a lock, which uploads or claims wait for."""


def collect(sessions: Sessions, storage: Storage, *, kept: timedelta = KEPT) -> int:
    """Delete what no row names and is older than `kept`; how many objects.

    Raises StorageUnavailable, sqlalchemy's OperationalError.
    """
    with sessions() as db:
        limit = db.execute(select(func.now() - kept)).scalar_one()
    deleted = 0
    for prefix, may_delete, unnamed in _KINDS:
        old = (entry.key for entry in storage.entries(prefix) if entry.written_at < limit)
        for batch in _batches(old):
            with sessions.begin() as db:
                garbage = unnamed(db, batch) if may_delete(db) else []
                for key in garbage:
                    storage.delete(key)
            deleted += len(garbage)
    if deleted:
        log.info("garbage.collected", objects=deleted)
    return deleted


def _nobody_stores(db: Session) -> bool:
    return bool(db.scalar(select(func.pg_try_advisory_xact_lock(ERASURE))))


def _nothing_runs(db: Session) -> bool:
    running = select(Job.id).where(Job.state == JobState.running).limit(1)
    if db.scalar(running) is not None:
        return False
    db.execute(text("LOCK TABLE job IN SHARE MODE"))  # reads go on; a claim waits
    return db.scalar(running) is None


def _anybody(db: Session) -> bool:
    return True


def _not_in(column: InstrumentedAttribute[str]) -> Callable[[Session, list[str]], list[str]]:
    def unnamed(db: Session, keys: list[str]) -> list[str]:
        named = set(db.scalars(select(column).where(column.in_(keys))))
        return [key for key in keys if key not in named]

    return unnamed


def _of_no_job(db: Session, keys: list[str]) -> list[str]:
    """Checkpoints without a row, and whatever a late trainer left of a job that was erased."""
    jobs = {key: UUID(key.split("/")[1]) for key in keys}
    there = set(db.scalars(select(Job.id).where(Job.id.in_(jobs.values()))))
    checkpoints = [key for key in keys if "/previews/" not in key]
    lost = set(_not_in(Checkpoint.key)(db, checkpoints))
    return [key for key in keys if key in lost or jobs[key] not in there]


_KINDS: tuple[tuple[str, Callable[[Session], bool], Callable[[Session, list[str]], list[str]]], ...] = (
    ("references/", _nobody_stores, _not_in(Reference.key)),
    ("images/", _nobody_stores, _not_in(Image.key)),
    ("jobs/", _anybody, _of_no_job),
    ("bundles/", _nothing_runs, _not_in(Bundle.key)),
    ("exports/", _nothing_runs, _not_in(Export.key)),
)


def _batches(keys: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(keys, _BATCH)):
        yield batch
