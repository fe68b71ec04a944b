"""Check the invariants after claims, deaths, late wake-ups and cancel requests in any order on a real PostgreSQL.

Hypothesis chooses the order and shortens a failing one. After each step the rows are compared with the model that
`test_lease_simulation` runs on. Time passes by moving every timestamp into the past.
"""

from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle as Values
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select, text, update

from api.domain import jobs
from api.domain.tables import Attempt, Bundle, Checkpoint, Job, JobState
from tests.domain.lease_model import TRANSITIONS, ModelJob
from tests.job_life import insert_job

CAP = 3
LEASE = 600.0
TERMS = {"lease_seconds": LEASE, "max_attempts": CAP}
"""Leases, backoffs (100, 200, 400 s) and time steps are so long that the test's own time does not matter."""
REACHABLE = {(origin, target) for origins, targets in TRANSITIONS.values() for origin in origins for target in targets}
workers = st.sampled_from(["w1", "w2", "w3"])


class JobLife(RuleBasedStateMachine):
    """A state machine of jobs. Any earlier claim may write at any time, like a worker that wakes up late."""

    job_ids = Values("job_ids")
    claims = Values("claims")

    def __init__(self, sessions) -> None:
        super().__init__()
        self.sessions, self.now = sessions, 0.0
        self.models: dict[object, ModelJob] = {}
        self.before: dict[object, tuple[JobState, int]] = {}

    def teardown(self) -> None:
        with self.sessions.begin() as db:
            db.execute(text("TRUNCATE owner CASCADE"))

    def changed(self, statement) -> list:
        """Execute one statement in its own transaction and return its rows."""
        with self.sessions.begin() as db:
            return db.execute(statement).all()

    @precondition(lambda self: len(self.models) < 3)
    @rule(target=job_ids)
    def create(self):
        job_id = insert_job(self.sessions, [])
        self.models[job_id] = ModelJob(lease_seconds=LEASE, max_attempts=CAP)
        self.models[job_id].run_after = self.now
        return job_id

    @rule(target=claims, worker=workers)
    def claim_the_oldest(self, worker):
        ready = [job_id for job_id, model in sorted(self.models.items()) if model.is_ready(self.now)]
        return self._claim(worker, jobs.claim(worker, lease_seconds=LEASE), ready[:1])

    @rule(target=claims, worker=workers, job_id=job_ids)
    def claim_the_notified_job(self, worker, job_id):
        ready = [job_id] if self.models[job_id].is_ready(self.now) else []
        return self._claim(worker, jobs.claim(worker, lease_seconds=LEASE, job_id=job_id), ready)

    def _claim(self, worker, statement, ready):
        rows = self.changed(statement)
        assert [row.id for row in rows] == ready
        if not rows:
            return multiple()
        (row,) = rows
        model = self.models[row.id]
        assert model.claim(worker, self.now)
        assert (row.fence, row.attempt) == (model.fence, model.attempt)
        return (row.id, row.fence)

    @rule(claim=claims)
    def heartbeat(self, claim):
        self._write(claim, jobs.heartbeat, ModelJob.heartbeat, self.now, lease_seconds=LEASE)

    @rule(claim=claims, step=st.integers(1, 4))
    def commit_checkpoint(self, claim, step):
        change, model_change = jobs.commit_checkpoint, ModelJob.may_commit_checkpoint
        self._write(claim, change, model_change, step=step, key=f"{step}", sha256="00", size=1)

    @rule(claim=claims)
    def finish(self, claim):
        self._write(claim, jobs.finish, ModelJob.finish, key="b", sha256="00", size=1)

    @rule(claim=claims)
    def fail(self, claim):
        self._write(claim, jobs.fail, ModelJob.fail, code="internal", detail="x")

    @rule(claim=claims)
    def lose_attempt(self, claim):
        self._write(claim, jobs.lose_attempt, ModelJob.lose_attempt, self.now, cause="storage", detail="x", **TERMS)

    @rule(claim=claims)
    def requeue(self, claim):
        self._write(claim, jobs.requeue, ModelJob.requeue, self.now)

    @rule(claim=claims)
    def cancel(self, claim):
        self._write(claim, jobs.cancel, ModelJob.cancel)

    def _write(self, claim, change, model_change, *now, **arguments):
        job_id, fence = claim
        won = bool(self.changed(change(job_id, fence, **arguments)))
        assert won == bool(model_change(self.models[job_id], fence, *now))

    @rule()
    def expire_leases(self):
        expected = {job_id for job_id, model in self.models.items() if model.has_expired(self.now)}
        assert {row.id for row in self.changed(jobs.expire_leases(**TERMS))} == expected
        for job_id in expected:
            self.models[job_id].expire(self.now)

    @rule(worker=workers)
    def start_a_worker_anew(self, worker):
        lost = {row.id for row in self.changed(jobs.lose_attempts_of(worker, **TERMS))}
        assert lost == {job_id for job_id, model in self.models.items() if model.lose_attempt_of(worker, self.now)}

    @rule(job_id=job_ids)
    def request_cancel(self, job_id):
        assert bool(self.changed(jobs.request_cancel(job_id))) == self.models[job_id].request_cancel()

    @rule(job_id=job_ids)
    def retry(self, job_id):
        assert bool(self.changed(jobs.retry(job_id))) == self.models[job_id].retry(self.now)

    @rule(seconds=st.sampled_from([50.0, 150.0, 700.0]))
    def time_passes(self, seconds):
        self.now += seconds
        leap = timedelta(seconds=seconds)
        with self.sessions.begin() as db:
            db.execute(update(Job).values(lease_until=Job.lease_until - leap, run_after=Job.run_after - leap))

    @invariant()
    def rows_are_as_the_rules_say(self):
        with self.sessions() as db:
            rows = {job.id: job for job in db.scalars(select(Job))}
            bundles = db.scalars(select(Bundle.job_id)).all()
            checkpoints = db.execute(select(Checkpoint.job_id, func.count()).group_by(Checkpoint.job_id)).all()
            open_attempts = db.scalars(select(Attempt.job_id).where(Attempt.ended_at.is_(None))).all()
            fences = db.execute(select(Attempt.job_id, func.count()).group_by(Attempt.job_id)).all()
        assert rows.keys() == self.models.keys()
        assert len(bundles) == len(set(bundles)), "at most one bundle for a job"
        assert all(count <= jobs.KEPT_CHECKPOINTS for _, count in checkpoints)
        assert dict(fences) == {job_id: m.fence for job_id, m in self.models.items() if m.fence}, "one row per claim"
        for job in rows.values():
            model = self.models[job.id]
            assert (job.state, job.attempt, job.fence, job.worker) == (
                model.state,
                model.attempt,
                model.fence,
                model.worker,
            )
            assert (job.cancel_requested_at is not None) == model.cancel_requested
            assert (job.id in bundles) == bool(model.bundles) == (job.state is JobState.succeeded)
            assert (job.lease_until is not None) == (job.state is JobState.running), "the running alone hold a lease"
            assert (job.finished_at is not None) == (job.state in ("succeeded", "failed", "cancelled"))
            assert 0 <= job.attempt <= CAP
            assert not (job.state is JobState.queued and job.cancel_requested_at), "nobody wants what waits"
            assert open_attempts.count(job.id) == (job.state is JobState.running), "an attempt is open while it runs"
            was_state, was_fence = self.before.get(job.id, (job.state, job.fence))
            assert job.fence >= was_fence, "fences only rise"
            assert was_state is job.state or (was_state, job.state) in REACHABLE
            assert was_state is not JobState.succeeded or job.state is JobState.succeeded, "a result is for good"
        self.before = {job.id: (job.state, job.fence) for job in rows.values()}


def test_each_change_starts_and_ends_where_the_model_says():
    assert jobs.TRANSITIONS == TRANSITIONS


def test_no_order_of_events_breaks_the_protocol(sessions):
    run_state_machine_as_test(
        lambda: JobLife(sessions),
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
