"""Random schedules of claims, deaths, late wake-ups and wishes on a real database; what must hold, holds after each.

Seeded: a failing schedule is repeated by its number. Time is the database's: an expiry is a lease put into the past.
"""

import random
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from api.domain import jobs
from api.domain.models import Attempt, Bundle, Job, JobState

CAP = 3
STEPS = 60
WORKERS = ("w1", "w2", "w3")
TERMS = {"lease_seconds": 60, "max_attempts": CAP}


class World:
    """Three workers who may hold several claims at once, live or long lost: a zombie forgets nothing."""

    def __init__(self, db, random_: random.Random) -> None:
        self.db, self.random = db, random_
        self.claims: list[tuple[object, int]] = []

    def claim(self) -> None:
        row = self.db.execute(jobs.claim(self.random.choice(WORKERS), lease_seconds=60)).one_or_none()
        if row is not None:
            self.claims.append((row[0], row[1]))

    def write_as_any_claim_ever_made(self) -> None:
        if not self.claims:
            return
        job_id, fence = self.random.choice(self.claims)
        change, args = self.random.choice(
            [
                (jobs.heartbeat, {"lease_seconds": 60}),
                (jobs.commit_checkpoint, {"step": fence, "key": f"f{fence}", "sha256": "00", "size": 1}),
                (jobs.finish, {"key": f"f{fence}", "sha256": "00", "size": 1}),
                (jobs.fail, {"code": "internal", "detail": "x"}),
                (jobs.lose_attempt, {"cause": "storage", "detail": "x", **TERMS}),
                (jobs.requeue, {}),
                (jobs.cancel, {}),
            ]
        )
        holds = self.db.scalar(
            select(Job.id).where(Job.id == job_id, Job.fence == fence, Job.state == JobState.running)
        )
        won = self.db.execute(change(job_id, fence, **args)).one_or_none()
        assert won is None or holds is not None, f"{change.__name__} won without holding the job"

    def let_a_lease_run_out(self) -> None:
        running = self.db.scalars(select(Job.id).where(Job.state == JobState.running)).all()
        if running:
            late = func.now() - timedelta(seconds=1)
            self.db.execute(update(Job).where(Job.id == self.random.choice(running)).values(lease_until=late))
            self.db.execute(jobs.expire_leases(**TERMS)).all()

    def let_pauses_pass(self) -> None:
        self.db.execute(update(Job).values(run_after=func.now()))

    def start_a_worker_anew(self) -> None:
        self.db.execute(jobs.lose_attempts_of(self.random.choice(WORKERS), **TERMS)).all()

    def wish_a_cancel(self) -> None:
        self.db.execute(jobs.request_cancel(self.random.choice(self.job_ids()))).one_or_none()

    def retry(self) -> None:
        self.db.execute(jobs.retry(self.random.choice(self.job_ids()))).one_or_none()

    def job_ids(self) -> list[object]:
        return list(self.db.scalars(select(Job.id).order_by(Job.id)))


ACTS = [
    (World.claim, 6),
    (World.write_as_any_claim_ever_made, 8),
    (World.let_a_lease_run_out, 2),
    (World.let_pauses_pass, 4),
    (World.start_a_worker_anew, 1),
    (World.wish_a_cancel, 1),
    (World.retry, 1),
]
REACHABLE = {
    (origin, target) for origins, targets in jobs.TRANSITIONS.values() for origin in origins for target in targets
}


@pytest.mark.parametrize("number", range(12))
def test_no_schedule_breaks_the_protocol(sessions, make_job, number):
    for _ in range(3):
        make_job()
    chance = random.Random(number)
    with sessions() as db:
        world, before = World(db, chance), {}
        for _ in range(STEPS):
            act = chance.choices([act for act, _ in ACTS], [weight for _, weight in ACTS])[0]
            act(world)
            db.commit()
            before = check(db, before)


def check(db, before: dict) -> dict:
    bundles = db.scalars(select(Bundle.job_id)).all()
    assert len(bundles) == len(set(bundles)), "at most one bundle for a job"
    after = {job.id: job for job in db.scalars(select(Job).execution_options(populate_existing=True))}
    for job in after.values():
        assert (job.id in bundles) == (job.state is JobState.succeeded)
        assert (job.lease_until is not None) == (job.state is JobState.running), "a lease is held by the running alone"
        assert (job.finished_at is not None) == (job.state in ("succeeded", "failed", "cancelled"))
        assert 0 <= job.attempt <= CAP
        assert not (job.state is JobState.queued and job.cancel_requested_at), (
            "a cancelled wish never waits in the queue"
        )
        open_attempts = db.scalar(select(func.count()).where(Attempt.job_id == job.id, Attempt.ended_at.is_(None)))
        assert open_attempts == (job.state is JobState.running), "one open attempt while it runs, none else"
        was_state, was_fence = before.get(job.id, (job.state, job.fence))
        assert job.fence >= was_fence, "fences only rise"
        assert was_state is job.state or (was_state, job.state) in REACHABLE
        assert was_state is not JobState.succeeded or job.state is JobState.succeeded, "a result is for good"
    return {job.id: (job.state, job.fence) for job in after.values()}
