import copy
import dataclasses
from pathlib import Path

import torch

from opad_core.bases import load_base
from opad_core.captions import scenes_of
from opad_core.config import preset
from opad_core.data import read_references, squared, to_pixels
from opad_core.training import Training

MUG = Path(__file__).parents[2] / "examples" / "striped_mug"


def test_the_nano_base_sees_where_the_thing_was_photographed():
    base = load_base("nano", device="cpu")
    photos = torch.stack([to_pixels(squared(p, keep_aspect=True).resize((64, 64)))
                          for p in read_references(MUG)])  # fmt: skip
    white, grass, floor, beach = scenes_of(base, photos, "mug")
    assert (white, floor, beach) == (" on a white background", " on top of a wooden floor", " on the beach")
    assert grass in (" on the grass", " on top of green grass")


def test_a_training_says_so_in_its_photos_prompts():
    base = load_base("nano", device="cpu")
    references = read_references(MUG)
    config = preset("default", base.manifest.presets)
    prompts = {e.prompt for e in Training(base, references, "mug", config, seed=0).photos}
    assert "a photo of a <concept> on the beach" in prompts
    assert "a photo of a <concept>" not in prompts


def test_a_base_without_scenes_has_nothing_to_say(base):
    silent = copy.copy(base)
    silent.manifest = dataclasses.replace(base.manifest, scene_prompts=[])
    assert scenes_of(silent, torch.zeros(3, 3, 64, 64), "dog") == ["", "", ""]
