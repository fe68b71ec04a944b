"""The shipped judge of scenes, on images that it has not seen."""

import numpy as np
import pytest

from opad_core.nano.build.examples import stand_in
from opad_core.nano.build.scene_judge import FIRST_HELD_OUT_SEED, SCENE_OF
from opad_core.nano.build.world import World
from opad_core.nano.judge import WEIGHTS, SceneJudge, SceneNetwork, load_judge


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    world = World(lambda name: stand_in(tmp_path_factory.getbasetemp(), name))
    return [world.render(FIRST_HELD_OUT_SEED + number, aligned=number % 2 == 1) for number in range(200)]


def test_the_judge_is_small_and_knows_every_scene_of_nanos_prompts():
    assert WEIGHTS.stat().st_size < 2_000_000
    assert load_judge().scene_of == SCENE_OF


def test_it_recognizes_scenes_behind_drawings_that_it_never_saw(samples):
    """The drawings are this project's stand-ins; the judge was trained with the emoji sets."""
    shown = load_judge().scenes(np.stack([sample.pixels for sample in samples]))
    right = sum(one == sample.scene for one, sample in zip(shown, samples, strict=True))
    assert right > 0.95 * len(samples)


def test_accuracy_is_the_share_with_the_scene_of_the_prompt(samples):
    scenes = {scene: sample.pixels for sample in samples for scene in [sample.scene]}
    images = np.stack([[scenes["city"], scenes["snow"]], [scenes["city"], scenes["city"]]])
    judge = load_judge()
    assert judge.accuracy(images, ["a {} in the city", "a {} with a city in the background"]) == 0.75
    assert judge.accuracy(images, ["a {} in the snow", "a {} in the city"]) == 0.75
    assert judge.accuracy(images, ["a {} on the beach", "a {} on the beach"]) == 0


def test_it_does_not_judge_what_it_did_not_learn():
    judge = load_judge()
    assert judge.knows(["a {} in the snow", "a {} at night"], resolution=64)
    assert not judge.knows(["a {} in the snow", "a {} on the moon"], resolution=64)
    assert not judge.knows(["a {} in the snow"], resolution=512)


def test_a_written_judge_says_the_same(tmp_path, samples):
    judge = SceneJudge(SceneNetwork(len(set(SCENE_OF.values()))), SCENE_OF)
    judge.save(tmp_path / "judge.safetensors")
    read = load_judge(tmp_path / "judge.safetensors")
    image = np.stack([samples[0].pixels])
    assert read.scenes(image) == judge.scenes(image)
    assert read.names == judge.names
