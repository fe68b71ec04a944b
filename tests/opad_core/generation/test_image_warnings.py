import numpy as np
import pytest

from opad_core.bases.loading import load_base
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.generation.image_warnings import image_warnings

ALIKE = "the images of these 4 seeds are nearly alike; other words change more than another seed"


def gray(*levels, side=64):
    return [np.full((side, side, 3), level, np.uint8) for level in levels]


@pytest.mark.parametrize("side", [64, 512])
def test_four_images_are_alike_while_each_is_within_seven_levels_of_the_first(side):
    assert image_warnings(gray(100, 94, 106, 106, side=side)) == [ALIKE]
    assert image_warnings(gray(100, 94, 106, 107, side=side)) == []


def test_three_images_say_nothing():
    assert image_warnings(gray(100, 100, 100)) == []


def test_the_grain_of_a_large_image_is_no_difference():
    """Independent noise of 40 levels differs by 45 per pixel, and by 45 / 8 after averages over 8 x 8 pixels."""
    grain = np.random.default_rng(0).normal(128, 40, (4, 512, 512, 3)).clip(0, 255).astype(np.uint8)
    assert np.abs(grain[0].astype(int) - grain[1]).mean() > 40
    assert image_warnings(list(grain)) == [ALIKE]


def test_other_seeds_of_the_untouched_student_are_not_alike():
    requests = [ImageRequest(None, "a photo of a rabbit", seed) for seed in range(7, 11)]
    assert image_warnings(OneStepGenerator(load_base("nano", device="cpu")).generate(requests)) == []
