import numpy as np
import pytest

from opad_core.tables.claims import verdict
from opad_core.tables.intervals import Interval, differences, interval


def test_the_mean_is_over_concepts_of_means_over_seeds():
    found = interval({"mug": [1.0, 1.0, 1.0], "teapot": [0.0]})
    assert (found.mean, found.runs, found.concepts) == (0.5, 4, 2)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    """Of 200 intervals of 12 concepts with 3 seeds each, 95 % should; percentile intervals of 12 hold it less often."""
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        centers = generator.normal(0.3, 0.05, 12)
        found = interval({str(k): center + generator.normal(0, 0.02, 3) for k, center in enumerate(centers)})
        held += found.low <= 0.3 <= found.high
    assert 0.85 < held / 200 < 0.99  # measured: 0.925


def test_more_spread_between_concepts_gives_a_wider_interval():
    narrow = interval({str(k): [0.5 + 0.01 * k] for k in range(6)})
    wide = interval({str(k): [0.5 + 0.1 * k] for k in range(6)})
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_spread_between_seeds_counts_too():
    same = interval({"mug": [0.5, 0.5], "teapot": [0.6, 0.6]})
    noisy = interval({"mug": [0.3, 0.7], "teapot": [0.4, 0.8]})
    assert noisy.high - noisy.low > same.high - same.low


def test_differences_are_paired():
    left = {("mug", 0): 0.9, ("mug", 1): 0.5, ("robot", 0): 0.1}
    right = {("mug", 0): 0.4, ("teapot", 0): 0.0, ("robot", 0): 0.2}
    found = differences(left, right)
    assert found.keys() == {"mug", "robot"}
    assert found["mug"] == pytest.approx([0.5])
    assert found["robot"] == pytest.approx([-0.1])


def test_without_values_there_is_no_interval():
    with pytest.raises(ValueError, match="there are no values"):
        interval({"mug": []})


@pytest.mark.parametrize(
    ("low", "high", "concepts", "said"),
    [
        (0.01, 0.05, 4, "reproduced"),
        (-0.05, -0.01, 4, "not reproduced"),
        (-0.01, 0.05, 4, "undecided"),
        (0.01, 0.05, 1, "undecided"),
    ],
)
def test_a_claim_is_decided_by_the_interval_of_its_difference(low, high, concepts, said):
    assert verdict(Interval((low + high) / 2, low, high, concepts * 2, concepts)) == said


def test_one_seed_decides_nothing():
    assert verdict(Interval(0.2, 0.1, 0.3, runs=5, concepts=3)) == "undecided"


def test_one_concept_has_no_interval_to_show():
    assert interval({"mug": [0.5, 0.7]}).text() == "0.600"
    assert interval({"mug": [0.5], "teapot": [0.5]}).text() == "0.500 [0.500, 0.500]"
