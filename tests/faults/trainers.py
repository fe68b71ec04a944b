"""Trainers forked from a process that has torch loaded, so that an attempt starts in a second.

Each runs `worker.training.run` like the host does, in its own process, which can die and be killed.
"""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from uuid import UUID

from sqlalchemy import func, update

from api.domain import jobs
from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.tables import Job
from tests.job_life import ENDED, process_environment, read_job
from worker.claiming import report_exit

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["worker.training.run", "pytest"])


class Trainers:
    def __init__(self, settings: Settings, sessions: Sessions, log: Path) -> None:
        self.settings = settings
        """Settings of the trainers that are started afterwards, unless others are given."""
        self._sessions, self._log = sessions, log
        self._started: list[BaseProcess] = []
        os.environ["OMP_NUM_THREADS"] = "1"  # before the fork server starts, because the order of sums depends on it

    @property
    def output(self) -> str:
        """The logs of all trainers."""
        return self._log.read_text() if self._log.exists() else ""

    def claim(self, worker: str = "w1", *, lease_seconds: float = 120) -> tuple[UUID, int]:
        """Claim the oldest waiting job, even if it is paused."""
        with self._sessions.begin() as db:
            db.execute(update(Job).values(run_after=func.now()))
        with self._sessions.begin() as db:
            row = db.execute(jobs.claim(worker, lease_seconds=lease_seconds)).one()
        return row.id, row.fence

    def start(self, job_id: UUID, fence: int, settings: Settings | None = None) -> BaseProcess:
        names = {name: value for name, value in os.environ.items() if name.startswith("OPAD_FAILPOINTS")}
        child_environment = process_environment(settings or self.settings) | names
        process = _context.Process(target=_train, args=(child_environment, str(job_id), str(fence), str(self._log)))
        process.start()
        self._started.append(process)
        return process

    def attempt(self, settings: Settings | None = None) -> int:
        """Claim and train a job, and report the exit code like the host."""
        job_id, fence = self.claim()
        trainer = self.start(job_id, fence, settings)
        trainer.join(timeout=120)
        assert trainer.exitcode is not None, "the trainer neither ends nor dies"
        if trainer.exitcode != 0:
            report_exit(settings or self.settings, self._sessions, job_id, fence, trainer.exitcode)
        return trainer.exitcode

    def see_through(self, job_id: UUID, settings: Settings | None = None) -> Job:
        """Run attempts until the job has ended."""
        while (job := read_job(self._sessions, job_id)).state not in ENDED:
            self.attempt(settings)
        return job

    def stop(self) -> None:
        for process in self._started:
            process.kill()
            process.join()


def _train(child_environment: dict[str, str], job_id: str, fence: str, log: str) -> None:
    os.environ.update(child_environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from worker.training import run  # loaded before the fork

    sys.argv = ["worker.training.run", "--job", job_id, "--fence", fence]
    sys.exit(run.main())
