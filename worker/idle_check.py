"""Check the weights of the served base on a trainer host that has no job.

The check runs in a process of its own (`worker.check_base`), which holds the host's slot, so no training begins beside
it. It ends at once when a job waits, and begins again later.
"""

import signal
import subprocess
import sys
from collections.abc import Callable

import structlog

from api.domain import base_checks, jobs
from api.domain.database import Sessions
from api.domain.settings import Settings
from worker.slot import Slot, take_slot
from worker.stack.parent_death import dies_with_parent

log = structlog.get_logger()

_LOOK_EVERY_SECONDS = 1.0


def check_base(settings: Settings, sessions: Sessions, *, host: str, should_stop: Callable[[], bool]) -> None:
    """Run the check if it is due, and end it early if a job waits or `should_stop()`.

    Raises sqlalchemy's OperationalError if the database is away.
    """
    with take_slot(settings.home) as slot:
        if slot is None:
            return
        claim = base_checks.claim(slot.host, host=host, idle_seconds=settings.check_base_after_seconds)
        with sessions.begin() as db:
            base_sha256 = db.scalar(claim)
        if base_sha256 is None:
            return
        log.info("base_check.started", base_sha256=base_sha256)
        code = _run(slot, base_sha256, lambda: should_stop() or _job_waits(settings, sessions))
        log.info("base_check.ended", base_sha256=base_sha256, code=code)
        if code == 0:
            return  # the process has stored its answers
        if code == -signal.SIGTERM:
            ending = base_checks.interrupt(base_sha256)
        else:
            ending = base_checks.finish(base_sha256, [_crashed(code)])
        with sessions.begin() as db:
            db.execute(ending)


def _run(slot: Slot, base_sha256: str, is_unwanted: Callable[[], bool]) -> int:
    """Run the process to its end and return its exit code, -SIGTERM if it became unwanted."""
    process = subprocess.Popen(
        dies_with_parent(sys.executable, "-m", "worker.check_base", "--base-sha256", base_sha256),
        stdin=subprocess.DEVNULL,
        pass_fds=(slot.fd,),
        start_new_session=True,
    )
    try:
        slot.record_trainer(process.pid)
        while True:
            try:
                return process.wait(_LOOK_EVERY_SECONDS)
            except subprocess.TimeoutExpired:
                if is_unwanted():
                    process.terminate()
                    return process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _job_waits(settings: Settings, sessions: Sessions) -> bool:
    with sessions.begin() as db:
        waiting = db.execute(jobs.waiting()).all()
    return any(not settings.trains or preset in settings.trains for _, preset in waiting)


def _crashed(code: int) -> dict[str, str]:
    cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    return {
        "check": "all checks",
        "outcome": "failed",
        "sentence": f"the process {cause}; see the log of this host, and run `python -m opad_core doctor` on it",
    }
