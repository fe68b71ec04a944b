from sqlalchemy import select

from api.domain import jobs
from api.domain.tables import Attempt, JobState
from tests.job_life import read_job
from worker.claiming import train_next
from worker.slot import take_slot


def test_a_busy_host_takes_no_second_job(settings, sessions, make_job):
    job_id = make_job()
    with take_slot(settings.home):
        assert train_next(settings, sessions) is False
    assert read_job(sessions, job_id).state is JobState.queued


def test_a_host_takes_only_jobs_of_its_presets(sessions, make_job):
    """Even if a notification names a job of another preset, because it is only a hint."""
    default, paper = make_job(), make_job(preset="paper")
    with sessions.begin() as db:
        assert db.execute(jobs.claim("small", lease_seconds=60, job_id=paper, presets=["default"])).all() == []
        assert db.execute(jobs.claim("large", lease_seconds=60, presets=["paper"])).one().id == paper
        assert db.execute(jobs.claim("any", lease_seconds=60)).one().id == default


def test_a_host_without_a_trainer_gives_back_the_jobs_that_the_database_says_it_trains(settings, sessions, make_job):
    """The process that claimed it was killed. Without this the lease would last another minute."""
    ours, theirs = make_job(), make_job()
    with take_slot(settings.home) as slot, sessions.begin() as db:
        db.execute(jobs.claim(slot.host, lease_seconds=60, job_id=ours)).one()
        db.execute(jobs.claim("another host", lease_seconds=60, job_id=theirs)).one()
    assert train_next(settings, sessions) is False, "the job is paused first"
    assert (read_job(sessions, ours).state, read_job(sessions, ours).attempt) == (JobState.queued, 1)
    assert read_job(sessions, theirs).state is JobState.running
    with sessions.begin() as db:
        assert db.execute(select(Attempt.cause, Attempt.detail).where(Attempt.job_id == ours)).one() == (
            "lost_worker",
            "the worker restarted",
        )
