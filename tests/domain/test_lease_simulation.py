"""100,000 schedules of three workers whose clocks run fast or slow, who pause, die and wake up; hints lost and doubled.

Seeded: a broken schedule is repeated by its number. What is checked is seen from outside, by an auditor who knows
which claim is the newest: the fence is not asked whether the fence works.
"""

import random

import pytest

from api.domain.tables import JobState
from tests.domain.lease_model import ModelJob

LEASE, BEAT, TRUST, CAP = 60.0, 10.0, 0.75, 5
"""As the settings are by default; a worker trusts its lease for three quarters of it, by its own clock."""
SCHEDULES = 100_000
STEPS = 40
PAUSES = (0.0, 0.1, 1.0, 5.0, 10.0, 15.0, 40.0, 70.0, 200.0)
"""Seconds between two events."""
ENDED = (JobState.succeeded, JobState.failed, JobState.cancelled)


class ViolationError(AssertionError):
    """An invariant is broken."""


class Worker:
    """`claim` is what it holds or thinks to hold, until it hears otherwise, however late."""

    def __init__(self, name: str, rate: float) -> None:
        self.name, self.rate = name, rate
        self.claim: int | None = None
        self.renewed_at = 0.0
        self.is_paused = False

    def trusts_its_lease(self, now: float) -> bool:
        """By a clock that runs at `rate`; what it shows does not matter, only how much of it has passed."""
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
        """As a notification and as a poll do; a worker that still trains, or thinks so, has no slot free."""
        if worker.is_paused or worker.claim is not None or not self.job.claim(worker.name, self.now):
            return
        for other in self.workers:
            if not other.is_paused and other.trusts_its_lease(self.now):
                raise ViolationError(f"{other.name} trains by right while {worker.name} claims")
        worker.claim = self.newest_claim = self.job.fence
        worker.renewed_at = self.now

    def hear_hint(self, worker: Worker) -> None:
        if self.hints:
            self.hints -= self.random.random() < 0.7  # else it comes again
            self.claim(worker)

    def write(self, worker: Worker) -> None:
        """Heartbeat, checkpoint or end: refused, it stops; and it stops by itself when it trusts its lease no more.

        One that was paused is past that look at its clock: what it was about to write, it writes.
        """
        if worker.claim is None or (worker.is_paused and self.random.random() < 0.5):
            return
        if not worker.is_paused and not worker.trusts_its_lease(self.now):
            worker.claim = None
            return
        worker.is_paused = False
        fence, chance, asked_at = worker.claim, self.random.random(), self.now
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
            elif self.random.random() < 0.9:  # else the answer is lost: renewed, but the worker does not know
                worker.renewed_at = asked_at
        else:
            worker.claim = None

    def pause(self, worker: Worker) -> None:
        worker.is_paused = True

    def die(self, worker: Worker) -> None:
        """Its next start gives back what it is said to hold."""
        worker.claim, worker.is_paused = None, False
        if self.random.random() < 0.5:
            self.job.lose_attempt_of(worker.name, self.now)

    def sweep(self, _: Worker) -> None:
        self.job.expire(self.now)
        self.hints = max(self.hints, 1) if self.job.is_ready(self.now) else self.hints

    def lose_hints(self, _: Worker) -> None:
        self.hints = 0

    def wish_cancel(self, _: Worker) -> None:
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
            raise ViolationError("a job that nobody wants waits in the queue")

    def calm_down(self) -> None:
        """No more faults: whatever happened before, the job must come to its end with the sweeps and polls alone."""
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
    *[World.hear_hint] * 4,
    *[World.write] * 16,
    *[World.pause] * 6,
    *[World.sweep] * 6,
    *[World.die] * 2,
    *[World.lose_hints] * 2,
    *[World.retry] * 2,
    World.wish_cancel,
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
    assert min(ends.values()) > SCHEDULES / 200, "every end is reached often enough to mean something"
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
    """Three quarters of a lease leave room for a clock that is a quarter slow, which no real one is."""
    assert "trains by right" in found_within(20_000, drift=0.5)
