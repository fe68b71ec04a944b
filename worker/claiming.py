"""Take one job and see it through in a process of its own.

Called by the Celery task for a notification, and by the host's poll. No torch here: the trainer
is executed, so the device is free again when it exits. The kernel kills it when its parent dies.
"""

import signal
import subprocess
import sys
from uuid import UUID

import structlog

from api.domain import failpoints, jobs
from api.domain.database import Sessions
from api.domain.settings import Settings
from worker.slot import Slot, take_slot
from worker.stack.parent_death import dies_with_parent
from worker.trainer_log import TrainerLog

log = structlog.get_logger()

START_UP_SECONDS = 60.0
"""Lease of a claim until the trainer's first heartbeat: importing torch took 8-11 s on a busy 2-core machine."""


def train_next(settings: Settings, sessions: Sessions, *, job_id: UUID | None = None) -> bool:
    """Train the named job, or the oldest waiting one, to its end; False when there was nothing that this host takes.

    Blocks for as long as the training takes. Raises sqlalchemy's OperationalError when the database is away.
    """
    with take_slot(settings.home) as slot:
        if slot is None:
            return False
        _give_back_orphans(settings, sessions, slot)
        lease_seconds = max(settings.lease_seconds, START_UP_SECONDS)
        with sessions.begin() as db:
            claimed = db.execute(
                jobs.claim(slot.host, lease_seconds=lease_seconds, job_id=job_id, presets=settings.trains)
            ).one_or_none()
        if claimed is None:
            return False
        claimed_id, fence, attempt = claimed
        told = log.bind(job_id=str(claimed_id), fence=fence, attempt=attempt)
        told.info("job.claimed", worker=slot.host)
        failpoints.reach("job.claimed")
        code = _run_trainer(slot, sessions, claimed_id, fence)
        told.info("trainer.exited", code=code)
        if code != 0:
            report_exit(settings, sessions, claimed_id, fence, code)
        return True


def _give_back_orphans(settings: Settings, sessions: Sessions, slot: Slot) -> None:
    """Nobody trains on this host, for we hold its slot: a job that is said to run here lost its trainer."""
    with sessions.begin() as db:
        orphans = db.execute(
            jobs.lose_attempts_of(slot.host, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts)
        ).all()
    for job_id, fence, state in orphans:
        log.warning("job.attempt_lost", job_id=str(job_id), fence=fence, cause="lost_worker", state=state)


def _run_trainer(slot: Slot, sessions: Sessions, job_id: UUID, fence: int) -> int:
    command = [sys.executable, "-m", "worker.training.run", "--job", str(job_id), "--fence", str(fence)]
    trainer = subprocess.Popen(
        dies_with_parent(*command),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(slot.fd,),
        start_new_session=True,  # a Ctrl-C at the terminal reaches the host alone, which stops the trainer in order
    )
    assert trainer.stderr is not None
    with TrainerLog(trainer.stderr, sessions, job_id, fence):
        try:
            slot.record_trainer(trainer.pid)
            return trainer.wait()
        finally:
            if trainer.poll() is None:
                trainer.kill()
                trainer.wait()


def report_exit(settings: Settings, sessions: Sessions, job_id: UUID, fence: int, code: int) -> None:
    """A trainer that ends in order reports by itself and exits with 0; then, and after a lost lease, no row moves."""
    if code == -signal.SIGTERM:  # asked to stop before it could listen
        change, cause = jobs.requeue(job_id, fence), "shutdown"
    else:
        change, cause = (
            jobs.lose_attempt(
                job_id,
                fence,
                cause="lost_worker",
                detail=_describe_exit(code),
                lease_seconds=settings.lease_seconds,
                max_attempts=settings.max_attempts,
            ),
            "lost_worker",
        )
    with sessions.begin() as db:
        state = db.scalar(change)
    if state is not None:
        log.warning("job.attempt_lost", job_id=str(job_id), fence=fence, cause=cause, state=state, code=code)


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"the trainer was ended by {signal.Signals(-code).name}"
    return f"the trainer ended with exit code {code}"
