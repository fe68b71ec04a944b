import copy
import dataclasses
from pathlib import Path

import torch

from opad_core.bases import load_base
from opad_core.captions import held_out_scenes, scenes_of
from opad_core.config import preset
from opad_core.data import read_references, reference_pixels
from opad_core.training import Training

MUG = Path(__file__).parents[2] / "examples" / "striped_mug"


def test_the_nano_base_sees_where_the_thing_was_photographed():
    base = load_base("nano", device="cpu")
    photos = reference_pixels(read_references(MUG), 64, keep_aspect=True)
    white, grass, floor, beach = scenes_of(base, photos, "mug")
    assert (white, grass, floor, beach) == (
        " on a white background", " on the grass", " on a wooden floor", " on a beach",
    )  # fmt: skip


def test_a_training_says_so_in_its_photos_prompts():
    base = load_base("nano", device="cpu")
    references = read_references(MUG)
    config = preset("default", base.manifest.presets)
    prompts = {e.prompt for e in Training(base, references, "mug", config, seed=0).photos}
    assert "a photo of a <concept> on a beach" in prompts
    assert "a photo of a <concept>" not in prompts


def test_a_base_without_scenes_has_nothing_to_say(base):
    silent = copy.copy(base)
    silent.manifest = dataclasses.replace(base.manifest, caption_scenes=[])
    assert scenes_of(silent, torch.zeros(3, 3, 64, 64), "dog") == ["", "", ""]


def test_scores_ask_for_scenes_that_no_student_was_asked_for():
    base = load_base("nano", device="cpu")
    references = read_references(MUG)
    held_out = held_out_scenes(base, references, "mug")
    assert {"a {} in the jungle", "a {} in the snow"} <= set(held_out)
    assert not {"a {} on the beach", "a {} on top of a wooden floor", *base.manifest.training_scenes} & set(held_out)
