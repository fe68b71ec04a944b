"""The program of a pod that was started for one job."""

import signal

import pytest

from api.domain.tables import JobState
from tests.job_life import checkpoints_of, read_job, wait_until

pytestmark = pytest.mark.timeout(600)


def test_it_exits_after_one_job_and_leaves_the_next_one(quick, sessions, queue_training, start_process):
    first, second = queue_training(iterations=2), queue_training(iterations=2)
    assert start_process(quick, "worker.one_job").wait(timeout=300) == 0
    assert read_job(sessions, first).state is JobState.succeeded
    assert read_job(sessions, second).state is JobState.queued


def test_it_exits_at_once_if_no_job_waits(quick, start_process):
    assert start_process(quick, "worker.one_job").wait(timeout=60) == 0


def test_on_sigterm_it_saves_a_checkpoint_and_gives_the_job_back(quick, sessions, queue_training, start_process):
    job_id = queue_training(iterations=10_000)
    pod = start_process(quick, "worker.one_job")
    wait_until(lambda: read_job(sessions, job_id).step > 0, seconds=240, what="an iteration")
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(timeout=60) == 0
    assert read_job(sessions, job_id).state is JobState.queued
    assert checkpoints_of(sessions, job_id) != []
