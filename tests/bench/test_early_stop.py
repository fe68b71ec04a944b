"""The simulation of stopping rules, on curves that are worked by hand."""

import pytest

from bench.early_stop import agreement, low, stopped, table

RISING = [(30, 0.50, 0.40, 0.75), (60, 0.60, 0.50, 0.75), (90, 0.70, 0.60, 0.75), (100, 0.71, 0.61, 0.75)]
FLAT = [(30, 0.50, 0.40, 0.75), (60, 0.60, 0.50, 0.78), (90, 0.60, 0.51, 0.75), (100, 0.59, 0.52, 0.75)]


def run(points, *, seed=0, setting="default"):
    return {"setting": setting, "concept": "mug", "seed": seed, "points": points}


@pytest.mark.parametrize(
    ("points", "every", "expected"),
    [
        (RISING, 30, (100, RISING[3])),  # 0.71 - 0.70 is 0.01, but the training is over
        (FLAT, 30, (90, FLAT[1])),  # the first of two equal scores is kept
        (FLAT, 60, (100, FLAT[1])),  # evaluations at 60 and, at the end, 100
    ],
)
def test_a_rule_stops_where_the_score_no_longer_rises(points, every, expected):
    step, kept = stopped(points, every=every, patience=1, min_gain=0.0)
    assert (step, tuple(kept)) == expected


def test_the_table_compares_with_the_whole_trainings():
    shown = table([run(FLAT), run(FLAT, seed=1)])
    whole, first = shown.splitlines()[2:4]
    assert "| 100 (100-100) | 0% | +0.0000 ± 0.0000 | +0.0000 ± 0.0000 | yes |" in whole
    # every 30, patience 2: at 100 no score of the last two beats 0.60, so 60 is kept: 0.50 - 0.52 and 0.78 - 0.75
    assert "| 100 (100-100) | 0% | -0.0200 ± 0.0000 | +0.0300 ± 0.0000 | not shown |" in first


def test_one_run_shows_nothing():
    assert "not shown" in table([run(FLAT)]).splitlines()[2]


def test_an_interval_is_students():
    # mean 0.02, standard deviation 0.0141, t of two values 12.71: 0.02 - 12.71 x 0.0141 / 1.414
    assert low([0.01, 0.03]) == pytest.approx(0.02 - 12.71 * 0.01)


def test_scores_that_rise_together_agree():
    assert agreement([run(RISING)]) == pytest.approx(1.0)
    against = [(step, -held_out, identity, scenes) for step, held_out, identity, scenes in RISING]
    assert agreement([run(RISING), run(against)]) == pytest.approx(0.0)
