"""Where a job's wall time went, summed over its attempts."""

from api.domain.wall_time import wall_time


def test_the_parts_of_all_attempts_are_summed_in_the_order_of_a_training():
    first = {"parts": {"distillation": 40.0, "start": 2.0}, "seconds": 42.0}
    running = {"parts": {"start": 3.0, "checkpoints": 0.5, "distillation": 10.0}, "seconds": None}
    total = wall_time([first, running])
    assert total == {"start": 5.0, "distillation": 50.0, "checkpoints": 0.5}
    assert list(total) == ["start", "distillation", "checkpoints"]


def test_the_time_after_the_last_heartbeat_of_a_dead_trainer_is_a_part_of_its_own():
    killed = {"parts": {"start": 2.0, "distillation": 40.0}, "seconds": 55.0}
    never_reported = {"parts": None, "seconds": 8.0}
    # 55 - 42, and 8
    assert wall_time([killed, never_reported]) == {"start": 2.0, "distillation": 40.0, "unreported": 21.0}


def test_attempts_of_an_older_version_have_no_parts():
    assert wall_time(None) == {}
    assert wall_time([{"parts": None, "seconds": 300.0}]) == {}
