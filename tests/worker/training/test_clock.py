"""The clock of a training, at times that are worked by hand."""

from api.domain.training_times import StageTime, TrainingTime
from worker.training.clock import TrainingClock

PLAN = {"distillation": 20, "collaborative": 10}
DOCUMENTED = TrainingTime({"distillation": StageTime(10.0, 2.0), "collaborative": StageTime(4.0, 1.0)}, 6.0, "estimate")
PAST = TrainingTime(DOCUMENTED.stages, 6.0, "history")


def run(clock: TrainingClock, until: int, *, first: float = 30.0, seconds: float = 1.0) -> None:
    """End iterations 1 to `until`: the first at `first`, each next one `seconds` later."""
    for step in range(1, until + 1):
        clock.iterations_ended("distillation", step, at=first + seconds * (step - 1))


def test_until_the_warm_up_is_over_the_expected_time_counts():
    clock = TrainingClock(PLAN, DOCUMENTED, device="cpu", started_at=0.0)
    run(clock, 1)
    # 19 x 2 of the stage, 4 + 10 x 1 of the next, 6 at the end
    assert clock.left() == (58.0, "estimate")


def test_slow_first_iterations_do_not_count():
    clock = TrainingClock(PLAN, DOCUMENTED, device="cpu", started_at=0.0)
    run(clock, 10, first=500.0)
    # 10 x 1, and the rest twice as fast as documented: (4 + 10 + 6) / 2
    assert clock.left() == (20.0, "measured")


def test_iterations_that_are_reported_together_share_their_time():
    clock = TrainingClock(PLAN, DOCUMENTED, device="cpu", started_at=0.0)
    clock.iterations_ended("distillation", 5, count=5, at=500.0)
    clock.iterations_ended("distillation", 10, count=5, at=505.0)
    # five iterations of 1 s after the warm-up: 10 x 1, and the rest twice as fast as documented: (4 + 10 + 6) / 2
    assert clock.left() == (20.0, "measured")


def test_a_report_with_slow_first_iterations_does_not_count_at_all():
    clock = TrainingClock({"distillation": 40, "collaborative": 0}, None, device="cuda", started_at=0.0)
    clock.iterations_ended("distillation", 10, count=10, at=60.0)
    assert clock.left() == (None, None)
    clock.iterations_ended("distillation", 20, count=10, at=62.0)
    clock.iterations_ended("distillation", 25, count=5, at=63.0)
    assert clock.left() == (3.0, "measured")  # 15 x 0.2
    # 63 s for 25 iterations, of which 25 x 0.2 are their pace
    assert clock.timing(at=64.0)["stages"]["distillation"] == {"start_seconds": 58.0, "iteration_seconds": 0.2}


def test_the_past_counts_like_twenty_iterations():
    clock = TrainingClock(PLAN, PAST, device="cpu", started_at=0.0)
    run(clock, 15, seconds=5.0)
    # (20 x 2 + 10 x 5) / 30 = 3 s per iteration, 1.5 times the past: 5 x 3 + (4 + 10 + 6) x 1.5
    assert clock.left() == (45.0, "measured")


def test_without_an_expected_time_the_own_pace_counts_for_both_stages():
    clock = TrainingClock(PLAN, None, device="cpu", started_at=0.0)
    run(clock, 5)
    assert clock.left() == (None, None)
    for step in range(6, 11):
        clock.iterations_ended("distillation", step, at=29.0 + step)
    assert clock.left() == (20.0, "measured")  # 10 + 10 iterations


def test_in_the_last_stage_only_its_rest_and_the_end_are_left():
    clock = TrainingClock(PLAN, DOCUMENTED, device="cpu", started_at=0.0)
    run(clock, 20)
    clock.iterations_ended("collaborative", 21, at=60.0)
    # Until its own pace is known, it is twice as fast as documented, like the stage before: (9 x 1 + 6) / 2
    assert clock.left() == (7.5, "measured")


def test_after_an_early_end_only_the_end_of_the_job_is_left():
    clock = TrainingClock(PLAN, DOCUMENTED, device="cpu", started_at=0.0)
    run(clock, 10)
    clock.training_ended()
    assert clock.left() == (3.0, "measured")  # 6, twice as fast as documented


def test_a_whole_training_keeps_its_times():
    clock = TrainingClock({"distillation": 8, "collaborative": 0}, None, device="cpu", started_at=0.0)
    run(clock, 8, first=30.0, seconds=1.5)
    # 30 + 7 x 1.5 = 40.5 s, of which 8 x 1.5 are iterations
    assert clock.timing(at=47.5) == {
        "device": "cpu",
        "stages": {"distillation": {"start_seconds": 28.5, "iteration_seconds": 1.5}},
        "finish_seconds": 7.0,
    }


def test_a_resumed_or_very_short_training_keeps_none():
    resumed = TrainingClock(PLAN, None, device="cpu", started_at=0.0)
    for step in range(7, 17):
        resumed.iterations_ended("distillation", step, at=float(step))
    short = TrainingClock(PLAN, None, device="cpu", started_at=0.0)
    run(short, 5)
    assert (resumed.timing(at=60.0), short.timing(at=60.0)) == (None, None)
