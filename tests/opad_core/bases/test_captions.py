import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from opad_core.bases.captions import held_out_scenes, scenes_of
from opad_core.bases.fetch.description import SCENE_PROMPTS
from opad_core.bases.loading import load_base
from opad_core.bases.manifest import Manifest
from opad_core.errors import OpadError
from opad_core.methods.opad.config import preset
from opad_core.methods.train import new_training
from opad_core.pixels import reference_pixels
from opad_core.reference_folder import read_references
from opad_core.training.config import override

MUG = Path(__file__).parents[3] / "examples" / "striped_mug"


def test_the_nano_base_recognizes_the_scenes_of_the_references():
    base = load_base("nano", device="cpu")
    references = reference_pixels(read_references(MUG), 64, keep_aspect=True)
    white, grass, floor, beach = scenes_of(base, references, "mug")
    assert (white, grass, floor, beach) == (
        " on a white background", " on the grass", " on a wooden floor", " on a beach",
    )  # fmt: skip


def test_training_prompts_name_the_scenes_of_the_references():
    base = load_base("nano", device="cpu")
    references = read_references(MUG)
    config = preset("default", base.manifest.presets)
    prompts = {e.prompt for e in new_training(base, references, "mug", config, seed=0).data.examples}
    assert "a photo of a <concept> on a beach" in prompts
    assert "a photo of a <concept>" not in prompts


def test_a_base_without_scenes_gives_empty_captions(base):
    without_scenes = copy.copy(base)
    without_scenes.manifest = dataclasses.replace(base.manifest, caption_scenes=[])
    assert scenes_of(without_scenes, torch.zeros(3, 3, 64, 64), "dog") == ["", "", ""]


DREAMBOOTH = [
    f"a {{}} {scene}"
    for scene in (
        "in the jungle", "in the snow", "on the beach", "on a cobblestone street", "on top of pink fabric",
        "on top of a wooden floor", "with a city in the background", "with a mountain in the background",
        "with a blue house in the background", "on top of a purple rug in a forest",
        "with a wheat field in the background", "with a tree and autumn leaves in the background",
        "with the Eiffel Tower in the background", "floating on top of water", "floating in an ocean of milk",
        "on top of green grass with sunflowers around it", "on top of a mirror",
        "on top of the sidewalk in a crowded street", "on top of a dirt road", "on top of a white rug",
    )
]  # fmt: skip
"""The scenes of DreamBooth's prompts for objects, as published."""


def test_no_prompt_of_the_evaluation_is_trained_on():
    """Neither DreamBooth's prompts nor nano's shorter versions of them are trained on."""
    nano = load_base("nano", device="cpu").manifest
    shorter = {"a {} with autumn leaves in the background", "a {} on top of green grass", "a {} on top of a purple rug"}
    assert not {*DREAMBOOTH, *shorter} & {*nano.caption_scenes, *nano.training_scenes}
    assert list(SCENE_PROMPTS) == DREAMBOOTH  # sd-turbo, whose manifest names no scenes for training
    assert not Manifest("", 512, None, None, [], DREAMBOOTH, {}, 4, {}, {}, {}).training_scenes


def test_scene_prompts_need_a_base_with_training_scenes(base, references):
    without_scenes = copy.copy(base)
    without_scenes.manifest = dataclasses.replace(base.manifest, training_scenes=[])
    config = override(preset("default", base.manifest.presets), {"scene_share": 0.5})
    with pytest.raises(OpadError, match=r"scene_share=0\.5 needs training scenes, and the base 'nano' has none"):
        new_training(without_scenes, references, "dog", config, seed=0)


def test_evaluation_uses_scenes_that_no_training_asks_for():
    base = load_base("nano", device="cpu")
    references = read_references(MUG)
    held_out = held_out_scenes(base, references, "mug")
    assert {"a {} in the jungle", "a {} in the snow"} <= set(held_out)
    assert not {"a {} on the beach", "a {} on top of a wooden floor", *base.manifest.training_scenes} & set(held_out)
