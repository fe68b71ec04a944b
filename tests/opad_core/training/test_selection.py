from pathlib import Path

import numpy as np
import pytest

from opad_core.adapters.key_value import KeyValueAdapter
from opad_core.bases.captions import evaluation_scenes, report_scenes
from opad_core.bases.loading import load_base
from opad_core.evaluation.embedding import LITE1, embed, load_embedding
from opad_core.evaluation.report import report_card
from opad_core.generation.bundle import read_bundle, write_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.opad.config import preset
from opad_core.methods.train import new_training
from opad_core.pixels import reference_pixels, to_uint8
from opad_core.reference_folder import read_references
from opad_core.training.config import override
from opad_core.training.selection import HeldOutEvaluation, is_learned

EXAMPLES = Path(__file__).parents[3] / "examples"
SCENES = ["a {} on the beach", "a {} in the snow", "a {} at night"]


@pytest.fixture
def bundle(base):
    return read_bundle(
        write_bundle(
            KeyValueAdapter.initial(base.student, base.text.embedding_of("mug")), method="opad", class_noun="dog",
            base="nano", base_sha256=base.manifest.sha256, config={}, seed=0,
        )
    )  # fmt: skip


def test_a_score_is_likeness_plus_half_of_how_much_nearer_the_own_scene_is(base, bundle, references):
    pixels = reference_pixels(references, 64, keep_aspect=True)
    network, generator = load_embedding(LITE1), OneStepGenerator(base)

    def features(of, subject, scene):
        return embed(
            np.stack([generator.generate([ImageRequest(of, scene.format(subject), s)])[0] for s in (2000, 2001)]),
            network,
        )

    theirs = embed(to_uint8(pixels), network)
    plain = [features(None, "dog", scene).mean(0) for scene in SCENES]
    likeness, fidelity = [], []
    for own, scene in enumerate(SCENES):
        for image in features(bundle, "<concept>", scene):
            likeness += [float(image @ reference) for reference in theirs]
            cosines = [float(image @ mean / mean.norm()) for mean in plain]
            others = [cosine for k, cosine in enumerate(cosines) if k != own]
            fidelity.append(cosines[own] - sum(others) / 2)
    expected = sum(likeness) / len(likeness) + 0.5 * sum(fidelity) / len(fidelity)
    # Another batch size may round a pixel to the next level, which moves a cosine by less than 1e-3.
    assert HeldOutEvaluation(base, pixels, "dog", SCENES).score(bundle) == pytest.approx(expected, abs=2e-3)


def test_the_untouched_student_is_faithful_to_its_own_scenes():
    """With the noun's own row and projections, the images are the untouched student's."""
    nano = load_base("nano", device="cpu")
    untouched = read_bundle(
        write_bundle(
            KeyValueAdapter.initial(nano.student, nano.text.embedding_of("mug")), method="opad", class_noun="mug",
            base="nano", base_sha256=nano.manifest.sha256, config={}, seed=0,
        )
    )  # fmt: skip
    references = read_references(EXAMPLES / "striped_mug")
    pixels = reference_pixels(references, 64, keep_aspect=True)
    scenes = evaluation_scenes(nano, references, "mug")
    right, wrong = (HeldOutEvaluation(nano, pixels, "mug", order) for order in (scenes, scenes))
    wrong._scene_features = right._scene_features.roll(1, 0)  # every image is compared with the next scene
    assert right.score(untouched) > wrong.score(untouched) + 0.05


@pytest.mark.parametrize("name", ["striped_mug", "blue_teapot", "taxi"])
def test_evaluations_use_scenes_of_neither_the_training_nor_the_report_card(name):
    nano = load_base("nano", device="cpu")
    references, noun = read_references(EXAMPLES / name), (EXAMPLES / name / "class.txt").read_text().strip()
    evaluated = evaluation_scenes(nano, references, noun)
    assert evaluated == [
        "a {} with a wheat field in the background", "a {} with a blue house in the background",
        "a {} on top of a purple rug", "a {} on top of a dirt road",
    ]  # fmt: skip
    assert not {*evaluated} & {*report_scenes(nano, references, noun), *nano.manifest.training_scenes}
    config = override(preset("default", nano.manifest.presets), {"eval_every": 30})
    data = new_training(nano, references, noun, config, seed=0).data
    assert data.evaluation_scenes == evaluated
    prompts = " ".join(example.prompt for example in data.examples) + " ".join(nano.manifest.training_scenes)
    assert not [word for word in ("wheat", "house", "rug", "road") if word in prompts]


def test_another_wording_of_a_used_scene_is_not_evaluated():
    """The report card of these photos asks for the city twice, and training for water and for autumn."""
    nano = load_base("nano", device="cpu")
    references = read_references(EXAMPLES / "striped_mug")
    unused = {"a {} floating on top of water", "a {} with autumn leaves in the background", "a {} in a wheat field"}
    assert not unused & {*evaluation_scenes(nano, references, "mug")}


def test_the_report_card_asks_for_its_own_scenes(base, bundle, references, roomy):
    card = report_card(bundle, roomy, references)
    evaluated = evaluation_scenes(roomy, references, "dog")
    assert len(evaluated) >= 2
    assert not {scene.format("<concept>") for scene in evaluated} & {*card.prompts}


def test_a_base_without_scenes_to_spare_is_not_evaluated(base, references):
    config = override(preset("default", base.manifest.presets), {"eval_every": 1})
    training = new_training(base, references, "dog", config, seed=0)
    training.step = 1
    assert (training.data.evaluation_scenes, training.evaluation_is_due) == ([], False)


@pytest.mark.parametrize(
    ("scores", "patience", "min_gain", "learned"),
    [
        ([0.1, 0.2, 0.3, 0.4], 2, 0.01, False),  # rises
        ([0.1, 0.2, 0.3, 0.3, 0.3], 2, 0.0, True),  # flat
        ([0.3, 0.3], 2, 0.0, False),  # too few evaluations to tell
        ([0.1, 0.3, 0.2, 0.304], 2, 0.005, True),  # the best rose by 0.004
        ([0.1, 0.3, 0.2, 0.306], 2, 0.005, False),  # by 0.006
        ([0.3, 0.1, 0.2], 2, 0.0, True),  # rises again, but not above the best
        ([0.3, 0.2, 0.1], 0, 0.0, False),  # no patience: never
    ],
)
def test_a_concept_is_learned_when_the_best_score_stops_rising(scores, patience, min_gain, learned):
    assert is_learned(scores, patience=patience, min_gain=min_gain) is learned


def test_a_resumed_training_scores_like_the_one_before(base, bundle, references):
    pixels = reference_pixels(references, 64, keep_aspect=True)
    first, second = (HeldOutEvaluation(base, pixels, "dog", SCENES).score(bundle) for _ in range(2))
    assert first == second
