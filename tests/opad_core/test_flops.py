from typing import Any

import pytest

from opad_core.flops import count_iteration
from opad_core.methods.opad.config import preset
from opad_core.training.config import override

pytestmark = pytest.mark.slow  # minutes, because networks of full size pass over the meta device

CONFIGS = {
    "paper": preset("paper", {}),
    "default": preset("default", {}),
    "cropped": override(preset("default", {}), {"decode_crop": 0.5}),
}


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, Any]]:
    """Counts at 256 pixels, where the decoder has the same share of the operations as at 512."""
    return {name: count_iteration(config, resolution=256) for name, config in CONFIGS.items()}


def test_an_iteration_at_full_size_is_counted_without_weights(counted):
    parts = counted["paper"]["parts"]
    assert set(parts) == {"prompts", "teacher", "student", "discriminators"}
    assert abs(sum(parts.values()) - counted["paper"]["tflop_per_iteration"]) < 0.03  # each is rounded to a hundredth
    # Two passes forward and one back through a UNet of 0.09 TFLOP at 256 pixels and B = 2 bound the teacher's step.
    assert 0.3 < parts["teacher"] < 2.5
    assert parts["student"] > 3 * parts["teacher"]


def test_the_default_computes_the_discriminators_features_of_an_image_once(counted):
    """Real and generated images cost the same. The features of generated ones come from the student's step."""
    paper, default = (dict(counted[name]["parts"]) for name in ("paper", "default"))
    assert default.pop("discriminators") == pytest.approx(paper.pop("discriminators") / 2, abs=0.02)  # rounded
    assert default == paper


def test_a_random_crop_makes_only_the_students_step_cheaper(counted):
    default, cropped = (dict(counted[name]["parts"]) for name in ("default", "cropped"))
    assert cropped.pop("student") < 0.8 * default.pop("student")
    assert cropped == default
