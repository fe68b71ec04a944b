"""The broker is a doorbell: a job rung for starts at once, and one that could not be rung for starts all the same."""

import psutil
import pytest

from api.domain import jobs
from api.domain.models import JobState
from tests.job_life import read_job, wait_for_end, wait_until
from worker.home import Home
from worker.local import start_servers
from worker.reconcile import create_doorbell, ring
from worker.supervision import Supervisor

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def own_broker(quick, short_folder):
    """Settings with a Valkey of this test alone, and its process."""
    home = Home(short_folder / "broker")
    home.open()
    supervisor = Supervisor(home, say=lambda line: None)
    settings = start_servers(
        quick.model_copy(update={"redis_url": None, "home": home.folder}), supervisor, durable=False
    )
    (pid,) = supervisor.pids().values()
    yield settings.model_copy(update={"home": quick.home}), psutil.Process(pid)
    supervisor.stop()
    home.close()


def test_a_job_queued_before_the_broker_was_killed_still_runs(own_broker, sessions, queue_training, start_process):
    settings, broker = own_broker
    job_id = queue_training(iterations=2)
    ring(create_doorbell(settings), [job_id])
    broker.kill()
    broker.wait()
    start_process(settings, "worker.host")
    assert wait_for_end(sessions, job_id).state is JobState.succeeded


@pytest.mark.usefixtures("rings")
def test_a_ring_starts_the_job_and_a_cancel_wish_ends_it(quick, sessions, queue_training, start_process):
    """The Celery worker alone, without the host's poll."""
    job_id = queue_training(iterations=10_000)
    start_process(quick, "worker.celery_app")
    ring(create_doorbell(quick), [job_id])
    wait_until(lambda: read_job(sessions, job_id).step > 0, seconds=240, what="an iteration")
    with sessions.begin() as db:
        assert db.scalar(jobs.request_cancel(job_id)) is JobState.running
    assert wait_for_end(sessions, job_id).state is JobState.cancelled
