"""The parts of an attempt, at times that are worked by hand."""

import time
from itertools import pairwise
from threading import Thread

import pytest

from worker.training.wall_time import WallTime


@pytest.fixture
def clock():
    """A clock that a test sets, in seconds."""

    class Clock:
        at = 100.0

        def __call__(self) -> float:
            return self.at

    return Clock()


def test_a_part_that_interrupts_another_is_not_counted_twice(clock):
    wall_time = WallTime(now=clock)
    clock.at = 103.0
    wall_time.begin("distillation")
    clock.at = 110.0
    with wall_time.part("previews"):
        clock.at = 112.0
        with wall_time.part("checkpoints"):
            clock.at = 112.5
    clock.at = 120.0
    # 7 before the preview and 7.5 after it
    assert wall_time.seconds() == {"start": 3.0, "distillation": 14.5, "previews": 2.0, "checkpoints": 0.5}


def test_an_error_ends_the_part_that_it_leaves(clock):
    wall_time = WallTime(now=clock)
    wall_time.begin("load")

    def fail() -> None:
        with wall_time.part("previews"):
            clock.at = 101.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    clock.at = 104.0
    assert wall_time.seconds() == {"start": 0.0, "load": 3.0, "previews": 1.0}


def test_the_start_counts_from_the_claim(clock):
    wall_time = WallTime(now=clock)
    clock.at = 102.0
    wall_time.begin("load")
    clock.at = 103.0
    wall_time.claimed(seconds_ago=10.0)  # so at 93, seven seconds before the process measured anything
    assert wall_time.started_at == 93.0
    assert wall_time.seconds() == {"start": 9.0, "load": 1.0}


def test_another_thread_reads_parts_that_sum_to_the_time_since_the_start():
    wall_time = WallTime()
    sums = []

    def read() -> None:
        for _ in range(2000):
            before = time.monotonic()
            total = wall_time.started_at + sum(wall_time.seconds().values())
            sums.append((before, total, time.monotonic()))

    reader = Thread(target=read)
    reader.start()
    while reader.is_alive():
        with wall_time.part("previews"):
            wall_time.begin("checkpoints")
    reader.join()
    assert len(sums) == 2000
    # 1 ms is far above the rounding of a sum of many small numbers
    assert all(before - 1e-3 <= total <= after + 1e-3 for before, total, after in sums)
    assert all(earlier[1] <= later[1] + 1e-3 for earlier, later in pairwise(sums))
