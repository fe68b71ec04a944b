"""The state changes of a job on a real PostgreSQL: exactly one caller wins."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from api.domain import jobs
from api.domain.job_reports import JobProgress, StoredExport
from api.domain.tables import Attempt, Bundle, Checkpoint, Export, Job, JobState

LEASE = {"lease_seconds": 60}
CAP = {"max_attempts": 5}
PROGRESS = JobProgress("distillation", 3, 10, 7.5, {"mse": 0.25, "adv": float("nan")}, "jobs/x/previews/3.png")


def test_a_claim_takes_the_oldest_waiting_job(sessions, make_job):
    first, second = make_job(), make_job()
    with sessions.begin() as db:
        assert db.execute(jobs.claim("w1", **LEASE)).one() == (first, 1, 1)
        assert db.execute(jobs.claim("w1", **LEASE)).one() == (second, 1, 1)
        assert db.execute(jobs.claim("w1", **LEASE)).one_or_none() is None


def test_a_claimed_job_says_who_has_it_and_until_when(sessions, make_job):
    job_id = make_job()
    with sessions.begin() as db:
        db.execute(jobs.claim("w1", job_id=job_id, **LEASE))
        job, now = db.execute(select(Job, func.now()).where(Job.id == job_id)).one()
        attempt = db.scalars(select(Attempt)).one()
    assert (job.state, job.worker, job.lease_until - now) == (JobState.running, "w1", timedelta(seconds=60))
    assert job.started_at == now
    assert (attempt.job_id, attempt.fence, attempt.worker, attempt.ended_at) == (job_id, 1, "w1", None)


def test_a_named_job_is_not_claimed_before_its_time(sessions, make_job):
    job_id = make_job()
    with sessions.begin() as db:
        db.execute(update(Job).values(run_after=func.now() + timedelta(seconds=60)))
        assert db.execute(jobs.claim("w1", job_id=job_id, **LEASE)).one_or_none() is None
        assert db.scalars(jobs.waiting()).all() == []


def test_a_named_job_is_claimed_before_older_ones(sessions, make_job):
    first, second = make_job(), make_job()
    with sessions.begin() as db:
        assert db.execute(jobs.claim("w1", job_id=second, **LEASE)).one() == (second, 1, 1)
        assert db.get_one(Job, first).state is JobState.queued


def test_of_many_claims_at_once_each_job_is_won_once(sessions, make_job):
    made = {make_job() for _ in range(20)}

    def claim_until_none(worker: int) -> list[UUID]:
        won = []
        while True:
            with sessions.begin() as db:
                row = db.execute(jobs.claim(f"w{worker}", **LEASE)).one_or_none()
            if row is None:
                return won
            won.append(row[0])

    with ThreadPoolExecutor(4) as pool:
        won = [job_id for lot in pool.map(claim_until_none, range(4)) for job_id in lot]
    assert len(won) == 20
    assert set(won) == made


def test_of_many_claims_of_one_job_one_wins(sessions, make_job):
    job_id = make_job()

    def claim(worker: int) -> bool:
        with sessions.begin() as db:
            return db.execute(jobs.claim(f"w{worker}", job_id=job_id, **LEASE)).one_or_none() is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 1


def test_a_heartbeat_renews_the_lease_and_stores_the_progress(sessions, make_job):
    job_id = make_job()
    with sessions.begin() as db:
        db.execute(jobs.claim("w1", lease_seconds=1))
        assert db.scalar(jobs.heartbeat(job_id, 1, progress=PROGRESS, **LEASE)) is False
        job, now = db.execute(select(Job, func.now())).one()
    assert job.lease_until - now == timedelta(seconds=60)
    assert (job.stage, job.step, job.total_steps, job.eta_seconds) == ("distillation", 3, 10, 7.5)
    assert job.losses == {"mse": 0.25}, "JSON has no NaN"
    assert job.preview_key == "jobs/x/previews/3.png"


def test_a_heartbeat_stores_the_wall_time_with_its_attempt(sessions, make_job):
    job_id = make_job()
    with sessions.begin() as db:
        db.execute(jobs.claim("w1", **LEASE))
        db.execute(jobs.heartbeat(job_id, 1, wall_time={"start": 2.5}, **LEASE)).one()
        db.execute(jobs.requeue(job_id, 1)).one()
        db.execute(jobs.claim("w2", **LEASE))
        assert db.execute(jobs.heartbeat(job_id, 1, wall_time={"start": 9.0}, **LEASE)).all() == []
        db.execute(jobs.heartbeat(job_id, 2, **LEASE)).one()
        kept = db.execute(select(Attempt.fence, Attempt.wall_time).order_by(Attempt.fence)).all()
    assert kept == [(1, {"start": 2.5}), (2, None)]


def test_a_heartbeat_returns_the_cancel_request(sessions, make_job):
    job_id = make_job(state=JobState.running, fence=1)
    with sessions.begin() as db:
        assert db.scalar(jobs.request_cancel(job_id)) is JobState.running
        assert db.scalar(jobs.heartbeat(job_id, 1, **LEASE)) is True
        assert db.scalar(jobs.cancel(job_id, 1)) is JobState.cancelled


def test_a_waiting_job_is_cancelled_at_once_and_only_once(sessions, make_job):
    job_id = make_job()
    with sessions.begin() as db:
        assert db.scalar(jobs.request_cancel(job_id)) is JobState.cancelled
        assert db.scalar(jobs.request_cancel(job_id)) is None
        assert db.execute(jobs.claim("w1", **LEASE)).one_or_none() is None


def test_finishing_makes_the_bundle_and_ends_the_job_together(sessions, make_job):
    job_id = make_job(state=JobState.queued)
    with sessions.begin() as db:
        db.execute(jobs.claim("w1", **LEASE))
        db.execute(jobs.heartbeat(job_id, 1, progress=PROGRESS, **LEASE))
        db.execute(jobs.commit_checkpoint(job_id, 1, step=3, key="c3", sha256="00", size=9))
        bundle_id = db.scalar(jobs.finish(job_id, 1, key="bundles/ab.safetensors", sha256="ab", size=7))
        job, bundle, attempt = (
            db.scalars(select(Job)).one(),
            db.scalars(select(Bundle)).one(),
            db.scalars(select(Attempt)).one(),
        )
        assert db.scalars(select(Checkpoint)).all() == []
    assert (bundle.id, bundle.job_id, bundle.concept_id) == (bundle_id, job_id, job.concept_id)
    assert (bundle.version, bundle.key, bundle.size) == (job.version, "bundles/ab.safetensors", 7)
    assert (job.state, job.step, job.lease_until) == (JobState.succeeded, 10, None)
    assert attempt.cause == "succeeded"
    assert attempt.ended_at == job.finished_at


def test_a_job_that_ended_early_has_no_more_steps_than_it_took(sessions, make_job):
    job_id = make_job(state=JobState.queued)
    with sessions.begin() as db:
        db.execute(jobs.claim("w1", **LEASE))
        db.execute(jobs.heartbeat(job_id, 1, progress=PROGRESS, **LEASE))  # plans 10
        db.scalar(jobs.finish(job_id, 1, key="k", sha256="00", size=1, steps=4))
        job = db.scalars(select(Job)).one()
    assert (job.step, job.total_steps) == (4, 4)


def test_the_exports_of_a_bundle_are_stored_with_it(sessions, make_job):
    job_id = make_job(state=JobState.running, fence=1)
    exports = [
        StoredExport(layout="diffusers", key="exports/d", sha256="d1", size=5, relative_error=None),
        StoredExport(layout="comfyui", key="exports/c", sha256="c1", size=6, relative_error=0.25),
    ]
    with sessions.begin() as db:
        bundle_id = db.scalar(jobs.finish(job_id, 1, key="k", sha256="00", size=1, exports=exports))
        stored = db.scalars(select(Export).order_by(Export.size)).all()
    assert {row.bundle_id for row in stored} == {bundle_id}
    assert [(row.layout, row.key, row.sha256, row.size, row.relative_error) for row in stored] == [
        ("diffusers", "exports/d", "d1", 5, None),
        ("comfyui", "exports/c", "c1", 6, 0.25),
    ]


def test_an_earlier_cancel_request_forbids_the_result(sessions, make_job):
    job_id = make_job(state=JobState.running, fence=1)
    with sessions.begin() as db:
        db.execute(jobs.request_cancel(job_id))
        assert db.scalar(jobs.finish(job_id, 1, key="k", sha256="00", size=1)) is None
        assert db.scalars(select(Bundle)).all() == []


def test_a_revived_worker_cannot_touch_a_requeued_job(sessions, make_job):
    job_id = make_job()
    with sessions.begin() as db:
        db.execute(jobs.claim("w1", **LEASE))
        db.execute(update(Job).values(lease_until=func.now() - timedelta(seconds=1)))
        assert db.execute(jobs.expire_leases(**LEASE, **CAP)).one() == (job_id, 1, JobState.queued)
        db.execute(update(Job).values(run_after=func.now()))
        assert db.execute(jobs.claim("w2", **LEASE)).one() == (job_id, 2, 2)
        assert db.scalar(jobs.heartbeat(job_id, 1, **LEASE)) is None
        assert db.execute(jobs.commit_checkpoint(job_id, 1, step=9, key="z", sha256="00", size=1)).one_or_none() is None
        assert db.scalar(jobs.finish(job_id, 1, key="z", sha256="00", size=1)) is None
        assert db.scalar(jobs.fail(job_id, 1, code="internal", detail="late")) is None
        assert db.scalar(jobs.requeue(job_id, 1)) is None
        assert db.scalar(jobs.cancel(job_id, 1)) is None
        assert db.scalar(jobs.lose_attempt(job_id, 1, cause="crashed", detail=None, **LEASE, **CAP)) is None
        assert db.scalar(jobs.finish(job_id, 2, key="ok", sha256="00", size=1)) is not None
        assert db.scalars(select(Bundle.key)).all() == ["ok"]


def test_a_fence_that_the_job_has_not_reached_holds_nothing(sessions, make_job):
    """A trainer may still run after the database was restored from a backup without its claim."""
    job_id = make_job(state=JobState.running, fence=1)
    with sessions.begin() as db:
        assert db.scalar(jobs.heartbeat(job_id, 2, **LEASE)) is None
        assert db.scalar(jobs.finish(job_id, 2, key="k", sha256="00", size=1)) is None


def test_a_second_bundle_of_a_job_is_refused_by_the_table_itself(sessions, make_job):
    job_id = make_job(state=JobState.running, fence=1)
    with sessions.begin() as db:
        db.scalar(jobs.finish(job_id, 1, key="k1", sha256="00", size=1))
        db.execute(update(Job).values(state=JobState.running))
    with pytest.raises(IntegrityError, match="uq_bundle_job_id"), sessions.begin() as db:
        db.scalar(jobs.finish(job_id, 1, key="k2", sha256="00", size=1))


def test_a_lease_that_still_runs_is_left_alone(sessions, make_job):
    make_job()
    with sessions.begin() as db:
        db.execute(jobs.claim("w1", **LEASE))
        assert db.execute(jobs.expire_leases(**LEASE, **CAP)).all() == []


def test_the_backoff_grows_with_lost_attempts_and_the_last_names_the_cause(sessions, make_job):
    job_id = make_job()
    pauses = []
    with sessions.begin() as db:
        for fence in (1, 2, 3):
            db.execute(update(Job).values(run_after=func.now()))
            db.execute(jobs.claim("w1", **LEASE)).one()
            state = db.scalar(
                jobs.lose_attempt(job_id, fence, cause="lost_worker", detail="exit -9", **LEASE, max_attempts=3)
            )
            pauses.append(db.scalar(select(Job.run_after - func.now())).total_seconds())
        job = db.scalars(select(Job)).one()
        causes = db.execute(select(Attempt.fence, Attempt.cause, Attempt.detail).order_by(Attempt.fence)).all()
    assert pauses[:2] == [10, 20], "60 s / 6, doubled"
    assert (state, job.state, job.error_code) == (JobState.failed, JobState.failed, "lost_worker")
    assert job.finished_at is not None
    assert causes == [(fence, "lost_worker", "exit -9") for fence in (1, 2, 3)]


@pytest.mark.parametrize(
    "change",
    [
        lambda job_id: jobs.requeue(job_id, 1),
        lambda job_id: jobs.lose_attempt(job_id, 1, cause="lost_worker", detail=None, **LEASE, **CAP),
    ],
)
def test_a_job_that_should_be_cancelled_does_not_go_back_to_the_queue(sessions, make_job, change):
    job_id = make_job(state=JobState.running, fence=1)
    with sessions.begin() as db:
        db.execute(jobs.request_cancel(job_id))
        assert db.scalar(change(job_id)) is JobState.cancelled
        assert db.scalars(select(Job)).one().finished_at is not None


def test_a_clean_shutdown_costs_no_attempt(sessions, make_job):
    job_id = make_job()
    with sessions.begin() as db:
        db.execute(jobs.claim("w1", **LEASE))
        assert db.scalar(jobs.requeue(job_id, 1)) is JobState.queued
        assert db.execute(jobs.claim("w2", **LEASE)).one() == (job_id, 2, 1)


@pytest.mark.parametrize("state", [JobState.failed, JobState.cancelled])
def test_a_retried_job_starts_with_new_attempts_under_a_new_fence(sessions, make_job, state):
    job_id = make_job(state=state, fence=4, attempt=5, error_code="oom")
    with sessions.begin() as db:
        assert db.scalar(jobs.retry(job_id)) is JobState.queued
        assert db.execute(jobs.claim("w1", **LEASE)).one() == (job_id, 5, 1)
        assert db.scalars(select(Job)).one().error_code is None


@pytest.mark.parametrize("state", [JobState.queued, JobState.running, JobState.succeeded])
def test_only_an_ended_job_without_result_can_be_retried(sessions, make_job, state):
    job_id = make_job(state=state)
    with sessions.begin() as db:
        assert db.scalar(jobs.retry(job_id)) is None


def test_two_checkpoints_are_kept_and_the_dropped_ones_named(sessions, make_job):
    job_id = make_job(state=JobState.running, fence=2)
    dropped = []
    with sessions.begin() as db:
        db.add(Checkpoint(job_id=job_id, fence=1, step=90, key="f1/90", sha256="00", size=1))
        db.flush()
        for step in (10, 20, 30):
            commit = jobs.commit_checkpoint(job_id, 2, step=step, key=f"f2/{step}", sha256="00", size=1)
            dropped.append(db.execute(commit).one()[1])
        assert [row.key for row in db.scalars(jobs.checkpoints(job_id))] == ["f2/30", "f2/20"]
    assert dropped == [None, ["f1/90"], ["f2/10"]], "a later fence is newer, whatever its step"


def test_after_a_roll_back_the_newest_checkpoint_is_the_one_committed_last(sessions, make_job):
    """Its step is an earlier one, or one that was reached before in another state."""
    job_id = make_job(state=JobState.running, fence=1)

    def commit(step: int, key: str) -> list[str]:
        with sessions.begin() as db:
            db.execute(jobs.commit_checkpoint(job_id, 1, step=step, key=key, sha256=key, size=1)).one()
            return [
                row.sha256 for row in db.scalars(jobs.checkpoints(job_id).execution_options(populate_existing=True))
            ]

    commit(10, "10")
    commit(20, "20")
    assert commit(10, "10 again") == ["10 again", "20"]
    assert commit(15, "15") == ["15", "10 again"]


def test_a_checkpoint_committed_twice_is_one(sessions, make_job):
    job_id = make_job(state=JobState.running, fence=1)
    commit = {"step": 10, "key": "k", "sha256": "00", "size": 1}
    with sessions.begin() as db:
        first = db.execute(jobs.commit_checkpoint(job_id, 1, **commit)).one()
        assert db.execute(jobs.commit_checkpoint(job_id, 1, **commit)).one() == first


def test_an_unknown_job_answers_nothing(sessions):
    with sessions.begin() as db:
        assert db.scalar(jobs.request_cancel(uuid7())) is None
        assert db.scalar(jobs.heartbeat(uuid7(), 0, **LEASE)) is None
