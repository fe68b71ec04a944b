"""The rules by which a watermark passes, and the changes that it must survive."""

import numpy as np
import pytest

from bench.watermarks import (
    ATTACKS,
    PAYLOAD,
    cannot_pass,
    crop_tenth,
    detected,
    equal_enough,
    false_positives,
    half,
    needed_bits,
)

PAYLOAD_BITS = np.arange(PAYLOAD, dtype=np.uint8) % 2


class Reader:
    """Finds any payload in images of one size."""

    def __init__(self, side):
        self.side = side

    def matches(self, image, payload):
        return image.shape[:2] == (self.side, self.side)


def test_a_mark_counts_from_so_many_bits_that_a_million_unmarked_images_give_at_most_one():
    assert needed_bits() == 30
    assert false_positives(32) == 2 / 2**32
    assert false_positives(30) == pytest.approx(2 * (1 + 32 + 496) / 2**32)
    assert false_positives(29) > 1e-6 > false_positives(30)


def test_two_wrong_bits_are_a_mark_and_three_are_none():
    for wrong, expected in ((2, True), (3, False)):
        found = PAYLOAD_BITS.copy()
        found[:wrong] ^= 1
        assert equal_enough(found, PAYLOAD_BITS) is expected


def test_a_watermark_is_dropped_only_if_chance_does_not_explain_its_losses():
    assert not cannot_pass([True] * 20 + [False] * 4)  # with a rate of 95 % that happens three times in a hundred
    assert cannot_pass([True] * 14 + [False] * 10)
    assert not cannot_pass([True] * 475 + [False] * 25)


def test_the_mark_is_looked_for_in_the_image_and_in_its_original_size():
    image = np.zeros((460, 460, 3), np.uint8)
    assert detected(Reader(460), image, PAYLOAD_BITS)
    assert detected(Reader(512), image, PAYLOAD_BITS)
    assert not detected(Reader(500), image, PAYLOAD_BITS)


def test_changes_of_an_image():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (512, 512, 3)).astype(np.uint8)
    assert half(image, random).shape == (256, 256, 3)
    kept = crop_tenth(image, random)
    assert kept.shape == (461, 461, 3)
    assert any((image[y : y + 461, x : x + 461] == kept).all() for y in range(52) for x in range(52))
    sides = [ATTACKS["screenshot"](image, random).shape[0] for _ in range(8)]
    assert min(sides) >= 401
    assert max(sides) <= 628
    assert len(set(sides)) > 1
