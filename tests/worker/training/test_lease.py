"""The lease, tested in a separate process because its loss ends the process."""

import subprocess
import sys

import pytest
from sqlalchemy import select, text, update

from api.domain import jobs
from api.domain.database import make_engine
from api.domain.tables import Job, JobEvent
from tests.job_life import process_environment, read_job, wait_until
from worker.training.lease import EXIT_LEASE_LOST

HOLD = """
import sys, time
from uuid import UUID
from api.domain.database import make_sessions
from api.domain.job_reports import JobProgress
from api.domain.settings import Settings
from worker.training import lease
from worker.training.wall_time import WallTime
lease.STALL_SECONDS = float(sys.argv[2])
settings = Settings()
with lease.Lease(settings, make_sessions(settings), UUID(sys.argv[1]), 1, wall_time=WallTime()) as held:
    for step in (3, 4, 5):
        losses = {"rec": step / 10}
        held.report(
            JobProgress("distillation", step, 10, 1.0, losses, None, iterations={step: losses}), seconds_per_step=0.0
        )
    print("held", flush=True)
    while not held.cancel_wished:
        time.sleep(0.05)
held.release()
print("let go", flush=True)
"""


@pytest.fixture
def hold(quick, sessions, make_job):
    """Start a process that holds a claimed job until it is cancelled. Returns the job's id and the process."""
    started = []

    def start(*, stall_seconds: float = 60):
        settings = quick.model_copy(update={"lease_seconds": 4.0})
        job_id = make_job()
        with sessions.begin() as db:
            db.execute(jobs.claim("w1", lease_seconds=60))
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(job_id), str(stall_seconds)],
            env={"PATH": "/usr/bin:/bin", **process_environment(settings)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n", process.stderr.read().decode()
        return job_id, process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_it_reports_progress_and_reads_the_request_to_cancel(hold, sessions):
    job_id, process = hold()
    wait_until(lambda: read_job(sessions, job_id).step == 5, seconds=20, what="the progress")
    with sessions.begin() as db:
        db.execute(jobs.request_cancel(job_id))
    assert process.communicate(timeout=20)[0] == b"let go\n"
    assert process.returncode == 0


def test_no_iteration_is_lost_between_two_heartbeats(hold, sessions):
    job_id, _ = hold()
    wait_until(lambda: read_job(sessions, job_id).step == 5, seconds=20, what="the progress")
    with sessions.begin() as db:
        events = db.scalars(select(JobEvent.data).where(JobEvent.kind == "progress").order_by(JobEvent.id)).all()
    told = {iteration["step"]: iteration["losses"] for event in events for iteration in event["iterations"]}
    assert told == {3: {"rec": 0.3}, 4: {"rec": 0.4}, 5: {"rec": 0.5}}


def test_the_process_ends_when_the_job_has_another_fence(hold, sessions):
    _, process = hold()
    with sessions.begin() as db:
        db.execute(update(Job).values(fence=2))
    assert process.wait(timeout=20) == EXIT_LEASE_LOST


def test_the_process_exits_when_no_renewal_succeeds(hold, settings):
    """The row is locked, so each renewal waits longer than the rest of the lease, as in a network partition."""
    _, process = hold()
    with make_engine(settings).begin() as connection:
        connection.execute(text("SELECT id FROM job FOR UPDATE"))
        connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"Timeout" in errors, "faulthandler says where it was"


def test_a_training_that_stalls_loses_its_lease(hold):
    _, process = hold(stall_seconds=0.1)
    assert process.wait(timeout=20) == 1
