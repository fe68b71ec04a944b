"""A base with random weights: the real architectures, nothing learned, written in a second."""

from pathlib import Path

import torch

from opad_core.nano.build.architecture import build_parts, write_base

NOUNS = ["dog", "mug", "robot"]
TEMPLATES = ["a photo of a {}", "a rendering of a {}"]
SCENE_PROMPTS = ["a {} on the beach", "a {} in the snow", "a {} at night", "a {} on the grass"]
WORDS = sorted({word for phrase in NOUNS + TEMPLATES + SCENE_PROMPTS for word in phrase.split() if word != "{}"})
SHORT = {
    "iterations": 4,
    "collaborative_iterations": 2,
    "samples": 4,
    "swd_levels": 2,
    "swd_projections": 8,
    "dinov2_size": 0,
    "bank": 8,
}
"""Settings with which a training of this base takes a few seconds."""


def write_random_base(folder: Path, *, seed: int = 0) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = build_parts(WORDS, folder / "tokenizer")
    presets = {"default": SHORT, "paper": SHORT | {"bank": 0}}
    vocabulary = {
        "nouns": NOUNS,
        "words": WORDS,
        "templates": TEMPLATES,
        "scene_prompts": SCENE_PROMPTS,
        "presets": presets,
        "licences": {"all": "CC0-1.0"},
    }
    write_base(folder, parts, vocabulary=vocabulary)
    return folder


if __name__ == "__main__":
    import sys

    print(write_random_base(Path(sys.argv[1])))
