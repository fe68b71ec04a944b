"""Delete objects that no row names, such as references of an interrupted upload or checkpoints of a dead trainer.

An object younger than a day may still get its row. Two locks keep an older one from getting a row while it is deleted.
Whoever stores references or images holds ERASURE in shared mode until the rows are committed. Bundles are deleted only
while no job runs and none can be claimed. The key of a checkpoint contains the fence, so it is never written again, and
the keys of a study are new with each import.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from uuid import UUID

import structlog
from sqlalchemy import func, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from api.domain.database import Sessions
from api.domain.storage import ERASURE, Storage, checkpoint_prefix
from api.domain.tables import Bundle, Checkpoint, Export, Image, Job, JobState, Reference, StudyImage

log = structlog.get_logger()

MIN_AGE = timedelta(hours=24)
_BATCH = 50
"""Keys per transaction. Uploads or claims wait for its lock."""


def collect(sessions: Sessions, storage: Storage, *, min_age: timedelta = MIN_AGE) -> int:
    """Delete objects that no row names and that are older than `min_age`. Return their number.

    Raises StorageUnavailable, sqlalchemy's OperationalError.
    """
    with sessions() as db:
        limit = db.execute(select(func.now() - min_age)).scalar_one()
    deleted = 0
    for prefix, may_delete, unreferenced in _KINDS:
        old = (entry.key for entry in storage.entries(prefix) if entry.written_at < limit)
        for batch in _batches(old):
            with sessions.begin() as db:
                garbage = unreferenced(db, batch) if may_delete(db) else []
                for key in garbage:
                    storage.delete(key)
            deleted += len(garbage)
    if deleted:
        log.info("garbage.collected", objects=deleted)
    return deleted


def _lock_out_writers(db: Session) -> bool:
    return bool(db.scalar(select(func.pg_try_advisory_xact_lock(ERASURE))))


def _lock_out_claims(db: Session) -> bool:
    running = select(Job.id).where(Job.state == JobState.running).limit(1)
    if db.scalar(running) is not None:
        return False
    db.execute(text("LOCK TABLE job IN SHARE MODE"))  # blocks claims, not reads
    return db.scalar(running) is None


def _always(db: Session) -> bool:
    return True


def _not_in(column: InstrumentedAttribute[str]) -> Callable[[Session, list[str]], list[str]]:
    def unreferenced(db: Session, keys: list[str]) -> list[str]:
        named = set(db.scalars(select(column).where(column.in_(keys))))
        return [key for key in keys if key not in named]

    return unreferenced


def _without_job(db: Session, keys: list[str]) -> list[str]:
    """Return checkpoints without a row, and everything that a late trainer wrote for an erased job."""
    jobs = {key: UUID(key.split("/")[1]) for key in keys}
    existing = set(db.scalars(select(Job.id).where(Job.id.in_(jobs.values()))))
    checkpoints = [key for key in keys if key.startswith(checkpoint_prefix(jobs[key]))]
    lost = set(_not_in(Checkpoint.key)(db, checkpoints))
    return [key for key in keys if key in lost or jobs[key] not in existing]


_KINDS: tuple[tuple[str, Callable[[Session], bool], Callable[[Session, list[str]], list[str]]], ...] = (
    ("references/", _lock_out_writers, _not_in(Reference.key)),
    ("images/", _lock_out_writers, _not_in(Image.key)),
    ("studies/", _always, _not_in(StudyImage.key)),
    ("jobs/", _always, _without_job),
    ("bundles/", _lock_out_claims, _not_in(Bundle.key)),
    ("exports/", _lock_out_claims, _not_in(Export.key)),
)


def _batches(keys: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(keys, _BATCH)):
        yield batch
