"""Simulate 100,000 schedules of three workers that pause, die and wake up, with clocks that run fast or slow.

Notifications are lost and doubled. Schedules are seeded, so a broken one is repeated by its number. The checks know
from outside which claim is the newest; they do not trust the fence that they test.
"""

import random

import pytest

from api.domain.tables import JobState
from tests.domain.lease_model import ModelJob

LEASE, BEAT, TRUST, CAP = 60.0, 10.0, 0.75, 5
"""The default settings. A worker trusts its lease for three quarters of its time, by its own clock."""
SCHEDULES = 100_000
STEPS = 40
PAUSES = (0.0, 0.1, 1.0, 5.0, 10.0, 15.0, 40.0, 70.0, 200.0)
"""Seconds between two events."""
ENDED = (JobState.succeeded, JobState.failed, JobState.cancelled)


class ViolationError(AssertionError):
    """An invariant is broken."""


class Worker:
    """A worker. `claim` is the fence that it holds, or still believes to hold."""

    def __init__(self, name: str, rate: float) -> None:
        self.name, self.rate = name, rate
        self.claim: int | None = None
        self.renewed_at = 0.0
        self.is_paused = False

    def trusts_its_lease(self, now: float) -> bool:
        """Return whether the lease is still trusted, by a clock that runs at `rate`."""
        return self.claim is not None and (now - self.renewed_at) * self.rate < TRUST * LEASE


class World:
    def __init__(self, random_: random.Random, *, fenced: bool, drift: float) -> None:
        self.random = random_
        self.job = ModelJob(lease_seconds=LEASE, max_attempts=CAP, fenced=fenced)
        self.workers = [Worker(name, 1 + random_.uniform(-drift, drift)) for name in ("w1", "w2", "w3")]
        self.now = 0.0
        self.hints = 1
        self.newest_claim = 0

    def claim(self, worker: Worker) -> None:
        """Claim the job after a notification or a poll. A worker that trains, or believes so, claims nothing."""
        if worker.is_paused or worker.claim is not None or not self.job.claim(worker.name, self.now):
            return
        for other in self.workers:
            if not other.is_paused and other.trusts_its_lease(self.now):
                raise ViolationError(f"{other.name} still trusts its lease while {worker.name} claims")
        worker.claim = self.newest_claim = self.job.fence
        worker.renewed_at = self.now

    def receive_hint(self, worker: Worker) -> None:
        if self.hints:
            self.hints -= self.random.random() < 0.7  # else it is delivered again
            self.claim(worker)

    def write(self, worker: Worker) -> None:
        """Write a heartbeat, checkpoint or end. The worker stops if it is refused or no longer trusts its lease.

        A worker that was paused has already checked its clock, so it writes what it was about to write.
        """
        if worker.claim is None or (worker.is_paused and self.random.random() < 0.5):
            return
        if not worker.is_paused and not worker.trusts_its_lease(self.now):
            worker.claim = None
            return
        worker.is_paused = False
        fence, chance, sent_at = worker.claim, self.random.random(), self.now
        if chance < 0.55:
            won = self.job.heartbeat(fence, self.now)
        elif chance < 0.75:
            won = self.job.finish(fence)
        elif chance < 0.8:
            won = self.job.fail(fence)
        elif chance < 0.9:
            won = self.job.lose_attempt(fence, self.now)
        else:
            won = self.job.requeue(fence, self.now)
        if won and fence != self.newest_claim:
            raise ViolationError(f"claim {fence} wrote after claim {self.newest_claim} was given")
        if chance < 0.55 and won:
            if self.job.cancel_requested and self.random.random() < 0.5:
                self.job.cancel(fence)
                worker.claim = None
            elif (
                self.random.random() < 0.9
            ):  # else the answer is lost: the lease is renewed, and the worker does not know
                worker.renewed_at = sent_at
        else:
            worker.claim = None

    def pause(self, worker: Worker) -> None:
        worker.is_paused = True

    def die(self, worker: Worker) -> None:
        """End the worker; with probability 0.5 its next start gives back what the database says it holds."""
        worker.claim, worker.is_paused = None, False
        if self.random.random() < 0.5:
            self.job.lose_attempt_of(worker.name, self.now)

    def sweep(self, _: Worker) -> None:
        self.job.expire(self.now)
        self.hints = max(self.hints, 1) if self.job.is_ready(self.now) else self.hints

    def lose_hints(self, _: Worker) -> None:
        self.hints = 0

    def request_cancel(self, _: Worker) -> None:
        self.job.request_cancel()

    def retry(self, _: Worker) -> None:
        self.job.retry(self.now)

    def check(self) -> None:
        job = self.job
        if job.bundles > 1 or (job.bundles == 1) != (job.state is JobState.succeeded):
            raise ViolationError(f"{job.bundles} results of a job that is {job.state}")
        if not 0 <= job.attempt <= CAP:
            raise ViolationError(f"attempt {job.attempt} of {CAP}")
        if (job.lease_until is not None) != (job.state is JobState.running):
            raise ViolationError(f"a {job.state} job with the lease {job.lease_until}")
        if job.state is JobState.queued and job.cancel_requested:
            raise ViolationError("a cancelled job waits in the queue")

    def calm_down(self) -> None:
        """Run without faults: after any history the job must end with sweeps and polls alone."""
        for worker in self.workers:
            worker.claim, worker.is_paused = None, False
        for _ in range(4 * CAP):
            if self.job.state in ENDED:
                return
            self.now += LEASE * 10
            self.sweep(self.workers[0])
            if self.job.claim("w1", self.now):
                self.job.finish(self.job.fence)
                self.check()
        raise ViolationError(f"the job is {self.job.state} for good")


ACTS = (
    *[World.claim] * 6,
    *[World.receive_hint] * 4,
    *[World.write] * 16,
    *[World.pause] * 6,
    *[World.sweep] * 6,
    *[World.die] * 2,
    *[World.lose_hints] * 2,
    *[World.retry] * 2,
    World.request_cancel,
)


def run_schedule(number: int, *, fenced: bool = True, drift: float = 0.1) -> World:
    chance = random.Random(number)
    world = World(chance, fenced=fenced, drift=drift)
    workers = world.workers
    for act, worker, pause in zip(
        chance.choices(ACTS, k=STEPS), chance.choices(workers, k=STEPS), chance.choices(PAUSES, k=STEPS), strict=True
    ):
        world.now += pause
        act(world, worker)
        world.check()
    world.calm_down()
    return world


def test_none_of_100_000_schedules_breaks_the_protocol():
    ends = dict.fromkeys(ENDED, 0)
    claims = 0
    for number in range(SCHEDULES):
        try:
            world = run_schedule(number)
        except ViolationError as broken:
            pytest.fail(f"schedule {number}: {broken}")
        ends[world.job.state] += 1
        claims += world.newest_claim
    assert min(ends.values()) > SCHEDULES / 200, "every final state is reached often enough"
    assert claims > 1.5 * SCHEDULES, "jobs change hands"


def found_within(schedules: int, **world: object) -> str:
    for number in range(schedules):
        try:
            run_schedule(number, **world)
        except ViolationError as broken:
            return str(broken)
    return "nothing"


def test_without_the_fence_a_late_writer_is_caught():
    assert "wrote after claim" in found_within(2_000, fenced=False)


def test_a_clock_that_loses_half_of_its_seconds_is_caught():
    """Three quarters of a lease tolerate a clock that is a quarter slow; no real clock is."""
    assert "still trusts its lease" in found_within(20_000, drift=0.5)
