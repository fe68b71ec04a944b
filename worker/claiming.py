"""Claim one job and run its trainer in a separate process.

The Celery task and the poll of the trainer host both call this. It imports no torch: the trainer is a process of its
own, so the device is free when it exits. The kernel kills the trainer when its parent dies.
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
"""Least lease of a claim, until the first heartbeat. Importing torch took 8-11 s on a busy machine with 2 cores."""


def train_next(settings: Settings, sessions: Sessions, *, job_id: UUID | None = None) -> bool:
    """Train the named job, or the oldest waiting one, to its end. Return False if there was none for this host.

    Blocks while the training runs. Raises sqlalchemy's OperationalError if the database is away.
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
        job_log = log.bind(job_id=str(claimed_id), fence=fence, attempt=attempt)
        job_log.info("job.claimed", worker=slot.host)
        failpoints.reach("job.claimed")
        code = _run_trainer(slot, sessions, claimed_id, fence)
        job_log.info("trainer.exited", code=code)
        if code != 0:
            report_exit(settings, sessions, claimed_id, fence, code)
        return True


def _give_back_orphans(settings: Settings, sessions: Sessions, slot: Slot) -> None:
    """Give back the jobs that the database says run here. We hold the slot, so their trainers are gone."""
    with sessions.begin() as db:
        orphans = db.execute(
            jobs.lose_attempts_of(slot.host, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts)
        ).all()
    for job_id, fence, state in orphans:
        log.warning("job.attempt_lost", job_id=str(job_id), fence=fence, cause="lost_worker", state=state)


def _run_trainer(slot: Slot, sessions: Sessions, job_id: UUID, fence: int) -> int:
    command = [sys.executable, "-m", "worker.training", "--job", str(job_id), "--fence", str(fence)]
    trainer = subprocess.Popen(
        dies_with_parent(*command),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(slot.fd,),
        start_new_session=True,  # Ctrl-C reaches only the host, which then stops the trainer with SIGTERM
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
    """Record how a trainer ended that could not report it. Changes nothing if the job already has another fence."""
    if code == -signal.SIGTERM:  # SIGTERM came before its handler was installed
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
        return f"the trainer was killed by {signal.Signals(-code).name}"
    return f"the trainer exited with code {code}"
