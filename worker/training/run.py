"""The trainer, a process that trains one claimed job.

It reports how the job ended and exits with 0. After any other exit code the process that started it must report. On
SIGTERM it commits a checkpoint, gives the job back and exits.
"""

import argparse
import hashlib
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any
from uuid import UUID

import structlog
import torch
from sqlalchemy import Select
from sqlalchemy.exc import OperationalError
from tenacity import Retrying, retry_if_exception_type, wait_fixed

from api.domain import failpoints, jobs
from api.domain.database import Sessions, make_sessions
from api.domain.environment import read_settings
from api.domain.job_reports import StoredExport
from api.domain.logs import configure_logs
from api.domain.provenance import Marks
from api.domain.settings import Settings
from api.domain.storage import (
    ObjectDamaged,
    ObjectMissing,
    Storage,
    StorageUnavailable,
    bundle_key,
    checkpoint_prefix,
    export_key,
    job_image_key,
)
from opad_core import DivergedError, NotEnoughMemoryError, OpadError, TrainingStopped, read_bundle
from worker.retries import log_retry
from worker.training.job import BadImageError, Claim, Exported, TrainingResult, train_job
from worker.training.lease import EXIT_LEASE_LOST, Lease
from worker.training.marking import png_of
from worker.training.storage_retry import retry_storage
from worker.training.wall_time import WallTime

log = structlog.get_logger()

UPLOADS = 9
"""Files of the result that are uploaded at once: the bundle, four exports and four images."""

ATTEMPTS_AFTER_OOM = 2
"""The first time another program may have used the memory. The second time the training needs too much."""


@dataclass(frozen=True)
class Outcome:
    event: str
    """Logged after `change` succeeded."""
    change: Select[Any]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.training", description="Train one claimed job.")
    parser.add_argument("--job", type=UUID, required=True, help="id of the job")
    parser.add_argument("--fence", type=int, required=True, help="fence that the claim returned")
    arguments = parser.parse_args()
    stop = _stop_on_sigterm()
    settings = read_settings("database_url", "s3_endpoint")
    configure_logs(settings.log_level)
    structlog.contextvars.bind_contextvars(job_id=str(arguments.job), fence=arguments.fence)
    return run(Claim(arguments.job, arguments.fence), settings, stop)


def run(claim: Claim, settings: Settings, stop: Callable[[], bool]) -> int:
    """Train, report how it ended, and return the exit code: 0, or EXIT_LEASE_LOST if the job is no longer ours."""
    sessions, storage, wall_time = make_sessions(settings), Storage(settings), WallTime()
    with Lease(settings, sessions, claim.job_id, claim.fence, wall_time=wall_time) as lease:
        ending = _train(claim, settings, sessions, storage, lease, stop, wall_time)
    failpoints.reach("job.ending")
    won = _report(sessions, ending.change)
    if not won and ending.event == "job.succeeded":  # the job was cancelled before its result was committed
        ending = Outcome("job.cancelled", jobs.cancel(claim.job_id, claim.fence))
        won = _report(sessions, ending.change)
    lease.release()
    if not won:
        log.error("lease.lost")
        return EXIT_LEASE_LOST
    log.info(ending.event)
    failpoints.reach("job.ended")
    if ending.event == "job.succeeded":
        _drop_checkpoints(storage, claim.job_id)
    return 0


def _train(
    claim: Claim,
    settings: Settings,
    sessions: Sessions,
    storage: Storage,
    lease: Lease,
    stop: Callable[[], bool],
    wall_time: WallTime,
) -> Outcome:
    """Train and return how it ended. This is the only place of the process that catches every exception."""
    try:
        learned = train_job(claim, settings, sessions, storage, lease, stop, wall_time)
        wall_time.begin("store")
        store = partial(_store_result, claim, storage, learned, marks=settings.provenance)
        return retry_storage(store, lease, stop, seconds=settings.storage_retry_seconds)
    except TrainingStopped:
        if lease.cancel_wished:
            return Outcome("job.cancelled", jobs.cancel(claim.job_id, claim.fence))
        return Outcome("job.requeued", jobs.requeue(claim.job_id, claim.fence))
    except StorageUnavailable as error:
        if stop():
            return Outcome("job.requeued", jobs.requeue(claim.job_id, claim.fence))
        return _lose_attempt(claim, settings, "storage", error)
    except (ObjectMissing, ObjectDamaged) as error:
        return _failed(claim, "storage", error)
    except DivergedError as error:
        return _failed(claim, "diverged", error)
    except BadImageError as error:
        return _failed(claim, "bad_image", error)
    except (NotEnoughMemoryError, MemoryError, torch.OutOfMemoryError) as error:
        return _lose_attempt(claim, settings, "oom", error, at_most=ATTEMPTS_AFTER_OOM)
    except OpadError as error:
        return _failed(claim, "invalid", error)
    except OperationalError as error:
        return _lose_attempt(claim, settings, "lost_worker", error)
    except Exception as error:
        log.exception("trainer.crashed")
        return _failed(claim, "internal", error)


def _store_result(claim: Claim, storage: Storage, learned: TrainingResult, *, marks: Marks | None) -> Outcome:
    """Store the files. Each is written under its hash, read back and verified before a row may name it."""
    failpoints.reach("bundle.made")
    sha256 = hashlib.sha256(learned.bundle).hexdigest()
    key = bundle_key(sha256)
    with ThreadPoolExecutor(UPLOADS) as threads:
        stored = threads.submit(_store_verified, storage, key, learned.bundle, sha256)
        storing = threads.map(partial(_store_export, storage), learned.exports)
        report = None
        if learned.report is not None:
            pngs = [png_of(image, marks, bundle=sha256) for image in learned.report.images]
            images = list(threads.map(partial(_store_image, claim, storage), pngs))
            report = {**learned.report.figures(), "images": images, "ended_early": learned.ended_early}
        read_bundle(stored.result())
        exports = list(storing)
    failpoints.reach("bundle.stored")
    finish = jobs.finish(
        claim.job_id,
        claim.fence,
        key=key,
        sha256=sha256,
        size=len(learned.bundle),
        base_sha256=learned.base_sha256,
        exports=exports,
        report=report,
        steps=learned.steps,
        timing=learned.clock.timing(at=time.monotonic()),
    )
    return Outcome("job.succeeded", finish)


def _store_verified(storage: Storage, key: str, data: bytes, sha256: str) -> bytes:
    """Store a file and return it as the store returns it."""
    storage.put_once(key, data, sha256)
    return storage.get(key, sha256)


def _store_image(claim: Claim, storage: Storage, png: bytes) -> str:
    """Store an image of the report card and return its hash."""
    sha256 = hashlib.sha256(png).hexdigest()
    storage.put_once(job_image_key(claim.job_id, sha256), png, sha256)
    return sha256


def _store_export(storage: Storage, exported: Exported) -> StoredExport:
    sha256 = hashlib.sha256(exported.data).hexdigest()
    key = export_key(sha256)
    _store_verified(storage, key, exported.data, sha256)
    return StoredExport(exported.layout, key, sha256, len(exported.data), exported.relative_error)


def _failed(claim: Claim, code: str, error: BaseException) -> Outcome:
    detail = str(error) if isinstance(error, OpadError) else f"{type(error).__name__}: {error}"
    return Outcome("job.failed", jobs.fail(claim.job_id, claim.fence, code=code, detail=detail))


def _lose_attempt(
    claim: Claim, settings: Settings, cause: str, error: BaseException, *, at_most: int | None = None
) -> Outcome:
    log.warning("job.attempt_lost", cause=cause, error=str(error))
    change = jobs.lose_attempt(
        claim.job_id,
        claim.fence,
        cause=cause,
        detail=str(error) or type(error).__name__,
        lease_seconds=settings.lease_seconds,
        max_attempts=min(settings.max_attempts, at_most or settings.max_attempts),
    )
    return Outcome("job.given_back", change)


def _report(sessions: Sessions, change: Select[Any]) -> bool:
    """Apply the change and return whether it took effect. Retries while the database is away, within the lease."""

    def write() -> bool:
        with sessions.begin() as db:
            return db.execute(change).one_or_none() is not None

    retrying = Retrying(
        retry=retry_if_exception_type(OperationalError),
        wait=wait_fixed(0.5),
        before_sleep=log_retry("report.retried"),
    )
    return retrying(write)


def _drop_checkpoints(storage: Storage, job_id: UUID) -> None:
    """Delete the checkpoint objects. The last transaction deleted their rows."""
    try:
        storage.delete_prefix(checkpoint_prefix(job_id))
    except StorageUnavailable as error:
        log.warning("checkpoint.left_behind", error=str(error))


def _stop_on_sigterm() -> Callable[[], bool]:
    stop_requested = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal stop_requested
        stop_requested = True

    signal.signal(signal.SIGTERM, ask)
    return lambda: stop_requested
