"""The lease of a trainer on its job. A thread renews it, and the process exits if it is lost.

A trainer that lost its job must not write. Either the database tells it (the job has another fence), or no renewal
succeeded for three quarters of the lease. A watchdog handles the second case: faulthandler's thread, which is written
in C and ends the process even if every Python thread hangs, for instance in a driver.
"""

import faulthandler
import os
import time
from types import TracebackType
from typing import Self
from uuid import UUID

import structlog
from sqlalchemy.exc import OperationalError

from api.domain import jobs
from api.domain.database import Sessions
from api.domain.job_reports import JobProgress
from api.domain.settings import Settings
from worker.background import Background
from worker.training.wall_time import WallTime

log = structlog.get_logger()

EXIT_LEASE_LOST = 3

PROGRESS_SECONDS = 1.0
"""Shortest time between two reports of progress. Without progress a heartbeat is sent every `heartbeat_seconds`."""

STALL_SECONDS = 120.0
"""A step that takes longer than this, and longer than STALL_STEPS times the average, ends the renewals."""
STALL_STEPS = 20


class Lease(Background):
    """Renews the lease until the `with` block ends. The code after it has three quarters of the lease left."""

    def __init__(
        self, settings: Settings, sessions: Sessions, job_id: UUID, fence: int, *, wall_time: WallTime
    ) -> None:
        super().__init__("lease")
        self._settings, self._sessions, self._wall_time = settings, sessions, wall_time
        self._job_id, self._fence = job_id, fence
        self._progress: JobProgress | None = None
        self._reported: JobProgress | None = None
        self._renewed_at = 0.0
        self._stalled_after: float | None = None
        self.cancel_wished = False

    def __enter__(self) -> Self:
        """Renew the lease first, because the job may belong to another trainer by now."""
        self._watch(time.monotonic())
        self._renew_or_exit()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        # The thread has not sent the progress of the last iteration, with its preview, and the whole wall time. If the
        # job is lost, its last transaction finds out.
        self._renew()

    def report(self, progress: JobProgress, *, seconds_per_step: float) -> None:
        """Send `progress` with the next renewal, and restart the clock that detects a stall."""
        unsent = self._progress
        self._progress = progress if unsent is None or unsent is self._reported else progress.following(unsent)
        self._stalled_after = time.monotonic() + max(STALL_SECONDS, STALL_STEPS * seconds_per_step)

    def wait(self, seconds: float) -> None:
        """Sleep without counting as stalled."""
        time.sleep(seconds)
        self.postpone_stall()

    def postpone_stall(self) -> None:
        """Restart the clock that detects a stall, while the training waits for a reason.

        Nothing counts before the first report: loading a base takes long.
        """
        if self._stalled_after is not None:
            self._stalled_after = time.monotonic() + STALL_SECONDS

    def release(self) -> None:
        """Stop the watchdog, after the job ended or was given back."""
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        while not self._stopping.wait(min(PROGRESS_SECONDS, self._settings.heartbeat_seconds)):
            due = time.monotonic() - self._renewed_at >= self._settings.heartbeat_seconds
            if due or self._progress is not self._reported:
                self._renew_or_exit()

    def _renew_or_exit(self) -> None:
        if not self._renew():
            log.error("lease.lost", job_id=str(self._job_id), fence=self._fence)
            os._exit(EXIT_LEASE_LOST)

    def _renew(self) -> bool:
        """Renew the lease unless the training stalls. Return False if the job is no longer ours."""
        asked_at, progress = time.monotonic(), self._progress
        if self._stalled_after is not None and asked_at > self._stalled_after:
            log.error("lease.stalled", job_id=str(self._job_id), fence=self._fence)
            return True
        beat = jobs.heartbeat(
            self._job_id,
            self._fence,
            lease_seconds=self._settings.lease_seconds,
            progress=progress,
            wall_time={part: round(seconds, 3) for part, seconds in self._wall_time.seconds().items()},
        )
        try:
            with self._sessions.begin() as db:
                cancel_wished = db.scalar(beat)
        except OperationalError as error:
            log.warning("lease.renewal_failed", job_id=str(self._job_id), error=str(error.orig))
            return True
        if cancel_wished is None:
            return False
        self.cancel_wished = cancel_wished
        self._renewed_at, self._reported = asked_at, progress
        self._watch(asked_at)
        return True

    def _watch(self, renewed_at: float) -> None:
        left = renewed_at + 0.75 * self._settings.lease_seconds - time.monotonic()
        faulthandler.dump_traceback_later(max(left, 0.001), exit=True)
