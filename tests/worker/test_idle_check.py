"""A trainer host without a job checks the weights of its base, on a real base with random weights."""

import os
import signal

import pytest
from sqlalchemy import select

from api.domain.tables import BaseCheck, Heartbeat, JobState, ServedBase
from opad_core.bases.manifest import read_manifest
from tests.job_life import read_job, wait_until
from worker.slot import trainer_pid

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def idle(quick):
    """Settings of a host that checks its base at once."""
    return quick.model_copy(update={"check_base_after_seconds": 0})


@pytest.fixture
def announce(sessions, base_folder):
    def announce(sha256=None):
        sha256 = sha256 or read_manifest(base_folder).sha256
        with sessions.begin() as db:
            db.add(ServedBase(name="nano", resolution=64, manifest_sha256=sha256))

    return announce


@pytest.fixture
def check(sessions):
    """Return the row of the only check, or None."""

    def read():
        with sessions() as db:
            return db.scalars(select(BaseCheck)).one_or_none()

    return read


def wait_for_answers(check):
    return wait_until(lambda: (row := check()) and row.answers and row, seconds=300, what="the answers")


@pytest.mark.slow
def test_an_idle_host_checks_its_base_and_stores_the_answers(idle, sessions, announce, check, start_process):
    announce()
    start_process(idle, "worker.host")
    row = wait_for_answers(check)
    outcomes = {answer["check"]: answer["outcome"] for answer in row.answers}
    assert outcomes["noise schedule"] == "passed"
    assert outcomes["one-step images"] == "failed", "its weights are random"
    assert "learning" in outcomes
    with sessions() as db:
        assert row.host == db.scalars(select(Heartbeat.name)).one()
    assert row.started_at is None


@pytest.mark.slow
def test_a_job_ends_the_check_which_begins_again_after_it(
    idle, sessions, announce, check, queue_training, start_process
):
    announce()
    start_process(idle, "worker.host")
    wait_until(lambda: trainer_pid(idle.home), seconds=60, what="the check's process")
    job_id = queue_training(iterations=2)
    row = wait_for_answers(check)
    job = read_job(sessions, job_id)
    assert job.state is JobState.succeeded
    assert job.finished_at < row.checked_at


def test_a_host_that_stops_ends_the_check(idle, announce, check, start_process):
    announce()
    host = start_process(idle, "worker.host")
    wait_until(lambda: trainer_pid(idle.home), seconds=60, what="the check's process")
    host.send_signal(signal.SIGTERM)
    assert host.wait(timeout=60) == 0
    assert (check().started_at, check().answers) == (None, None)


def test_a_check_that_is_killed_says_so_and_is_not_repeated(idle, announce, check, start_process):
    announce()
    start_process(idle, "worker.host")
    os.kill(wait_until(lambda: trainer_pid(idle.home), seconds=60, what="the check's process"), signal.SIGKILL)
    [answer] = wait_for_answers(check).answers
    assert answer["outcome"] == "failed"
    assert "was killed by SIGKILL" in answer["sentence"]


def test_another_base_than_the_engines_is_an_answer(idle, announce, check, start_process):
    announce("5" * 64)
    start_process(idle, "worker.host")
    [answer] = wait_for_answers(check).answers
    assert answer["outcome"] == "failed"
    assert "the engines serve 555555555555, this trainer has" in answer["sentence"]
