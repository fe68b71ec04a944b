"""The verdict, at figures that were measured on the nano base (docs/verdict.md)."""

from pathlib import Path

import pytest

from opad_core.evaluation.scores import Scores
from opad_core.evaluation.verdict import verdict_of
from opad_core.tables.markdown import Results
from opad_core.tables.runs_file import read_runs


def scores(identity, scene_accuracy, diversity):
    return Scores(
        identity=identity, text_fit=None, scene_accuracy=scene_accuracy, clip_image=0.4, dino=0.5, diversity=diversity,
        closest=0.7, copies=0.0,
    )  # fmt: skip


UNTOUCHED = scores(0.383, 0.75, 0.078)


@pytest.mark.parametrize(
    ("personalised", "name", "color"),
    [
        (scores(0.582, 0.75, 0.032), "learned_well", "green"),
        (scores(0.392, 0.75, 0.060), "likeness_did_not_rise", "amber"),
        (scores(0.319, 0.75, 0.170), "likeness_did_not_rise", "red"),
        (scores(0.543, 0.00, 0.053), "scenes_lost", "red"),
        (scores(0.559, 0.75, 0.012), "images_nearly_alike", "amber"),
    ],
)
def test_each_outcome_has_its_verdict(personalised, name, color):
    verdict = verdict_of(personalised, UNTOUCHED)
    assert (verdict.name, verdict.color) == (name, color)


@pytest.mark.parametrize(
    ("personalised", "name"),
    [
        (scores(0.404, 0.75, 0.05), "learned_well"),  # + 0.021
        (scores(0.402, 0.75, 0.05), "likeness_did_not_rise"),  # + 0.019
        (scores(0.5, 0.61, 0.05), "learned_well"),  # - 0.14
        (scores(0.5, 0.59, 0.05), "scenes_lost"),  # - 0.16
        (scores(0.5, 0.75, 0.021), "learned_well"),
        (scores(0.5, 0.75, 0.019), "images_nearly_alike"),
        (scores(0.402, 0.0, 0.0), "scenes_lost"),  # decides before the others
        (scores(0.402, 0.75, 0.0), "likeness_did_not_rise"),
    ],
)
def test_a_verdict_changes_at_its_threshold(personalised, name):
    assert verdict_of(personalised, UNTOUCHED).name == name


def test_a_base_that_cannot_compare_images_with_text_loses_no_scenes():
    assert verdict_of(scores(0.5, None, 0.05), scores(0.4, None, 0.1)).name == "learned_well"


def test_the_sentence_quotes_the_scores():
    lost = verdict_of(scores(0.543, 0.25, 0.053), UNTOUCHED)
    assert lost.sentence.startswith("Scenes lost: 25% of the images show the scene of their prompt, 75% before")


def test_the_measured_trainings_have_the_documented_verdicts():
    """docs/verdict.md names these."""
    runs = [run for run in read_runs(Path("docs/tables/runs.jsonl")) if run.get("scores")]
    for concept, name in (
        ("blue_teapot", "learned_well"),
        ("striped_mug", "images_nearly_alike"),
        ("dotted_backpack", "images_nearly_alike"),
        ("orange_robot", "likeness_did_not_rise"),
    ):
        found = Results([run for run in runs if run["concept"] == concept], {}).verdicts("opad")
        assert found.keys() == {name}
        assert found[name] >= 2
    assert Results(runs, {}).verdicts("custom_diffusion").keys() == {"scenes_lost"}
