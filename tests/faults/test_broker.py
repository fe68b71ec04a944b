"""A job starts at once after its notification, and also without one if the broker is away."""

import pytest

from api.domain import jobs
from api.domain.tables import JobState
from tests.job_life import read_job, wait_for_end, wait_until
from worker.reconcile import create_notifier, notify_workers

pytestmark = [pytest.mark.timeout(600), pytest.mark.fault]


def test_a_job_queued_before_the_broker_was_killed_still_runs(
    servers, quick, sessions, queue, start_process, notifications
):
    job_id = queue(iterations=2)
    notify_workers(create_notifier(quick), [(job_id, "default")])
    servers.kill("valkey")
    start_process(quick, "worker.host")
    assert wait_for_end(sessions, job_id).state is JobState.succeeded
    servers.start("valkey")


@pytest.mark.usefixtures("notifications")
def test_a_notification_starts_the_job_and_a_cancel_wish_ends_it(quick, sessions, queue, start_process):
    """Only the Celery worker runs, without the poll of the host."""
    job_id = queue(iterations=10_000)
    start_process(quick, "worker.celery_app")
    notify_workers(create_notifier(quick), [(job_id, "default")])
    wait_until(lambda: read_job(sessions, job_id).step > 0, seconds=240, what="an iteration")
    with sessions.begin() as db:
        assert db.scalar(jobs.request_cancel(job_id)) is JobState.running
    assert wait_for_end(sessions, job_id).state is JobState.cancelled
