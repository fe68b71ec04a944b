"""Checkpoints of a running job. Each is an object whose key contains the fence, and a row that makes it valid."""

import hashlib
from uuid import UUID

import structlog
from sqlalchemy.exc import OperationalError

from api.domain import failpoints, jobs
from api.domain.database import Sessions
from api.domain.storage import ObjectDamaged, ObjectMissing, Storage, StorageUnavailable, checkpoint_key

log = structlog.get_logger()


def save_checkpoint(storage: Storage, sessions: Sessions, job_id: UUID, fence: int, *, step: int, state: bytes) -> bool:
    """Store a checkpoint and return whether it was committed. An outage loses this checkpoint, not the training."""
    checkpoint_log = log.bind(job_id=str(job_id), fence=fence, step=step)
    sha256 = hashlib.sha256(state).hexdigest()
    key = checkpoint_key(job_id, fence, step, sha256)
    commit = jobs.commit_checkpoint(job_id, fence, step=step, key=key, sha256=sha256, size=len(state))
    try:
        storage.put_once(key, state, sha256)
        failpoints.reach("checkpoint.stored")
        with sessions.begin() as db:
            committed = db.execute(commit).one_or_none()
        if committed is None:
            return False
        for superseded in committed[1] or []:
            storage.delete(superseded)
    except (StorageUnavailable, OperationalError) as error:
        checkpoint_log.warning("checkpoint.failed", error=str(error))
        return False
    checkpoint_log.info("checkpoint.committed", size=len(state))
    failpoints.reach("checkpoint.committed")
    return True


def newest_valid_checkpoint(storage: Storage, sessions: Sessions, job_id: UUID) -> bytes | None:
    """Return the newest state whose object is intact, or None.

    Raises StorageUnavailable, because an outage says nothing about the objects.
    """
    with sessions.begin() as db:
        rows = list(db.scalars(jobs.checkpoints(job_id)))
    for row in rows:
        try:
            state = storage.get(row.key, row.sha256)
        except (ObjectMissing, ObjectDamaged) as error:
            log.error("checkpoint.unusable", job_id=str(job_id), key=row.key, error=str(error))
            continue
        log.info("checkpoint.resumed", job_id=str(job_id), fence=row.fence, step=row.step)
        return state
    return None
