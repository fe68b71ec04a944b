from typing import Any

import pytest

from opad_core.config import override, preset
from opad_core.flops import count_iteration

CONFIGS = {
    "paper": preset("paper", {}),
    "default": preset("default", {}),
    "window": override(preset("default", {}), {"decode_share": 0.5}),
}


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, Any]]:
    """At 256 pixels, where the decoder's share of the work is what it is at 512."""
    return {name: count_iteration(config, resolution=256) for name, config in CONFIGS.items()}


def test_an_iteration_at_full_size_is_counted_without_weights(counted):
    parts = counted["paper"]["parts"]
    assert set(parts) == {"prompts", "teacher", "student", "discriminators"}
    assert abs(sum(parts.values()) - counted["paper"]["tflop_per_iteration"]) < 0.03  # each is rounded to a hundredth
    # Two passes forward and one back through a UNet of 0.09 TFLOP at 256 pixels and B = 2 bound the teacher's step.
    assert 0.3 < parts["teacher"] < 2.5
    assert parts["student"] > 3 * parts["teacher"]


def test_the_default_costs_less_and_a_window_far_less(counted):
    paper, default, window = (counted[name]["tflop_per_iteration"] for name in CONFIGS)
    assert window < default <= 0.66 * paper
    assert window <= 0.45 * paper
