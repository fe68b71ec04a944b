"""A base with the real architectures and random weights, written in a second."""

import json
from pathlib import Path

import torch

from opad_core.bases.fast_decoder import FAST_DECODER, FILES
from opad_core.bases.manifest import hash_of
from opad_core.nano.build.architecture import LATENT_CHANNELS, build_parts, write_base
from tests.hub_mirror import tiny_decoder

NOUNS = ["dog", "mug", "robot"]
TEMPLATES = ["a photo of a {}", "a rendering of a {}"]
SCENE_PROMPTS = ["a {} on the beach", "a {} in the snow", "a {} at night", "a {} on the grass"]
CAPTION_SCENES = ["a {} on a beach", "a {} in white snow"]
TRAINING_SCENES = ["a {} at sunset", "a {} in the desert"]
MANY_SCENE_PROMPTS = [
    *SCENE_PROMPTS, "a {} on the beach at night", "a {} in the snow at night", "a {} on the grass at night",
    "a {} on white grass", "a {} on the beach at sunset", "a {} in the snow at sunset", "a {} on the grass at sunset",
    "a {} in white grass",
]  # fmt: skip
"""Eight for the report card, and four for evaluations during a training."""
PROMPTS = TEMPLATES + SCENE_PROMPTS + CAPTION_SCENES + TRAINING_SCENES
WORDS = sorted({word for phrase in NOUNS + PROMPTS for word in phrase.split() if word != "{}"})
SHORT = {
    "iterations": 4,
    "collaborative_iterations": 2,
    "samples": 4,
    "swd_levels": 2,
    "swd_projections": 8,
}
"""Settings that make a training of this base take a few seconds."""
OURS = {
    "augmentation_cache": 8,
    "collaboration": "gated",
    "discriminator_resize": "bicubic",
    "ema_decay": 0.99,
    "flip_probability": 0.0,
    "identity_resize": "bicubic",
    "keep_aspect": True,
    "lambda_swd": 0.17,
    "normalize_backbones": True,
    "scene_captions": True,
    "scene_share": 0.5,
    "swd_unit_range": True,
}
"""All additions to the published setting at once."""


def write_random_base(folder: Path, *, seed: int = 0) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = build_parts(WORDS, folder / "tokenizer")
    presets = {"default": SHORT | OURS, "paper": SHORT}
    vocabulary = {
        "nouns": NOUNS,
        "words": WORDS,
        "templates": TEMPLATES,
        "scene_prompts": SCENE_PROMPTS,
        "caption_scenes": CAPTION_SCENES,
        "training_scenes": TRAINING_SCENES,
        "presets": presets,
        "licenses": {"all": "CC0-1.0"},
    }
    write_base(folder, parts, vocabulary=vocabulary)
    return folder


def add_scene_prompts(base_folder: Path) -> None:
    """Give the manifest scenes to spare for evaluations during a training. The base's hash stays the same."""
    path = base_folder / "manifest.json"
    more = {"scene_prompts": MANY_SCENE_PROMPTS, "caption_scenes": []}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def claim_resolution(base_folder: Path, pixels: int) -> None:
    """Let the manifest state another resolution, for tests that end before a network is loaded."""
    path = base_folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resolution": pixels}))


def make_512_px(base_folder: Path) -> None:
    """Let the small networks generate images of 512 px."""
    path = base_folder / "manifest.json"
    manifest = json.loads(path.read_text()) | {"resolution": 512}
    for name in ("teacher/unet/config.json", "student/unet/config.json"):
        config = json.loads((base_folder / name).read_text()) | {"sample_size": 64}
        (base_folder / name).write_text(json.dumps(config))
        manifest["files"][name] = hash_of(base_folder / name)
    path.write_text(json.dumps(manifest))


def add_fast_decoder(base_folder: Path, *, seed: int = 0) -> None:
    """Install a random fast decoder of the base's latents."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tiny_decoder(latent_channels=LATENT_CHANNELS).save_pretrained(base_folder / FAST_DECODER)
    write_record(base_folder)


def write_record(base_folder: Path) -> None:
    """Record the hashes that the fast decoder's files have now."""
    folder = base_folder / FAST_DECODER
    record = {"files": {name: hash_of(folder / name) for name in FILES}}
    (folder / "manifest.json").write_text(json.dumps(record))


if __name__ == "__main__":
    import sys

    print(write_random_base(Path(sys.argv[1])))
