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
