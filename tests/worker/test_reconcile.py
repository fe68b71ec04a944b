import time
from datetime import timedelta
from uuid import uuid4

import pytest
from kombu.exceptions import OperationalError
from sqlalchemy import func, select, text, update

from api.domain import jobs
from api.domain.tables import Attempt, Job, JobState
from tests.job_life import read_job, wait_until
from worker import reconcile


def test_a_sweep_takes_back_what_a_silent_worker_held_and_leaves_the_rest(settings, sessions, make_job):
    lost, held, waiting = make_job(), make_job(), make_job()
    with sessions.begin() as db:
        for job_id in (lost, held):
            db.execute(jobs.claim("w1", lease_seconds=60, job_id=job_id)).one()
        db.execute(update(Job).where(Job.id == lost).values(lease_until=func.now() - timedelta(seconds=1)))
    assert reconcile.sweep(settings, sessions) == [(waiting, "default")], "the lost job is paused first"
    assert (read_job(sessions, lost).state, read_job(sessions, held).state) == (JobState.queued, JobState.running)
    with sessions.begin() as db:
        cause = db.execute(select(Attempt.cause, Attempt.detail).where(Attempt.job_id == lost)).one()
    assert cause == ("lost_worker", "the lease ran out")


def test_while_one_sweeps_the_others_do_nothing(settings, sessions, make_job):
    job_id = make_job()
    with sessions.begin() as db:
        db.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": reconcile._LOCK})
        assert reconcile.sweep(settings, sessions) == []
    assert reconcile.sweep(settings, sessions) == [(job_id, "default")]


def test_it_notifies_of_each_waiting_job_and_never_piles_up_notifications(settings, sessions, make_job, notifications):
    waiting = [(make_job(), "default"), (make_job(), "default")]
    notifier = reconcile.create_notifier(settings)
    reconcile.notify_workers(notifier, waiting)
    assert notifications() == 2
    reconcile.notify_workers(notifier, waiting)
    assert notifications() == 2, "nobody has heard the first ones yet"


def test_notifications_that_nobody_ever_hears_are_thrown_away(settings, make_job, notifications):
    notifier, job_id = reconcile.create_notifier(settings), make_job()
    with notifier.connection_for_write() as connection:
        for _ in range(reconcile.MAX_NOTIFICATIONS + 1):
            notifier.send_task(
                jobs.NOTIFY_TASK, [str(job_id)], queue=jobs.notify_queue("default"), connection=connection
            )
    reconcile.notify_workers(notifier, [(job_id, "default")])
    assert notifications() == 0


def test_a_host_for_some_presets_hears_their_notifications_alone(settings, make_job, notifications, start_process):
    notifier = reconcile.create_notifier(settings)
    reconcile.notify_workers(
        notifier, [(make_job(preset="paper"), "paper"), (make_job(), "default"), (uuid4(), "paper")]
    )
    assert (notifications("paper"), notifications("default")) == (2, 1)
    for_paper = settings.model_copy(update={"trains": ["paper"], "base": "none, so that no training begins"})
    start_process(for_paper, "worker.celery_app")
    wait_until(lambda: notifications("paper") == 0, seconds=60, what="a host that hears")
    assert notifications("default") == 1


def test_a_dead_broker_is_given_up_within_seconds(settings):
    dead = settings.model_copy(update={"redis_url": "redis://127.0.0.1:9/0"})
    started = time.monotonic()
    with pytest.raises(OperationalError):
        reconcile.notify_workers(reconcile.create_notifier(dead), [(uuid4(), "default")])
    assert time.monotonic() - started < 10
