from opad_core.config import ABLATIONS, override, preset
from opad_core.flops import count_iteration


def test_an_iteration_at_full_size_is_counted_without_weights():
    counted = count_iteration(override(preset("paper", {}), ABLATIONS["no-dinov2"]), resolution=256)
    parts = counted["parts"]
    assert set(parts) == {"prompts", "teacher", "student", "discriminators"}
    assert abs(sum(parts.values()) - counted["tflop_per_iteration"]) < 0.03  # each is rounded to a hundredth
    # Two passes forward and one back through a UNet of 0.09 TFLOP at 256 pixels and B = 2 bound the teacher's step.
    assert 0.3 < parts["teacher"] < 2.5
    assert parts["student"] > 3 * parts["teacher"]


def test_the_default_costs_less_and_a_window_far_less():
    """At 256 pixels, where the decoder's share of the work is what it is at 512."""
    count = {
        name: count_iteration(config, resolution=256)["tflop_per_iteration"]
        for name, config in {
            "paper": preset("paper", {}),
            "default": preset("default", {}),
            "window": override(preset("default", {}), {"decode_share": 0.5}),
        }.items()
    }
    assert count["window"] < count["default"] < count["paper"]
