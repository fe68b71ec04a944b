"""Scenes in prompts: captions that name the references' backgrounds, and scenes held out for evaluation.

A base's manifest has three lists. Evaluation chooses from `scene_prompts`: the report card takes the first that no
training asks for, evaluations during a training take others. The caption of a reference may name one of
`caption_scenes`. `scene_share` asks the student for `training_scenes`. Neither of the last two repeats a DreamBooth
prompt.

Captions matter to a one-step student. If prompts name only the object, the student has to reproduce the backgrounds,
too, and the object suffers: on the nano base, 560 iterations of "a photo of a <concept>" gave a mug without handle or
edges, and 300 of "a <concept> on the grass" gave it both.
"""

import torch
from PIL import Image
from torch import Tensor

from opad_core.bases.loading import Base
from opad_core.pixels import reference_pixels

TEMPLATES = (
    "a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}", "a photo of a clean {}",
    "a photo of a dirty {}", "a dark photo of the {}", "a photo of my {}", "a photo of the cool {}",
    "a bright photo of the {}", "a cropped photo of a {}", "a photo of the {}", "a good photo of the {}",
    "a photo of one {}", "a rendition of the {}", "a photo of the clean {}", "a rendition of a {}",
    "a photo of a nice {}", "a good photo of a {}", "a photo of the nice {}", "a photo of the small {}",
    "a photo of the weird {}", "a photo of the large {}", "a photo of a cool {}", "a photo of a small {}",
)  # fmt: skip
"""The published training prompts: CLIP's 27 short ImageNet templates without the two that say "close-up", which
augmentation contradicts."""


REPORT_SCENES = 8
"""Number of scene prompts of the report card."""
EVALUATION_SCENES = 4
"""Number of scene prompts of an evaluation during training."""


@torch.no_grad()
def scenes_of(base: Base, references: Tensor, class_noun: str) -> list[str]:
    """Return the base's `caption_scenes` that its CLIP finds in each of `references` [k, 3, r, r] in [-1, 1].

    A scene is the text that follows the name of the concept, such as " on the grass". It is empty where the base has
    no captions or cannot compare images with text.
    """
    best = _best_fit(base, base.manifest.caption_scenes, references, class_noun)
    return [""] * len(references) if best is None else [scene.partition("{}")[2] for scene in best]


def held_out_scenes(base: Base, references: list[Image.Image], class_noun: str) -> list[str]:
    """Return the scene prompts that no training asks for and that no reference shows.

    If the references show all of them, as a hundred may, return all that no training asks for.
    """
    pixels = reference_pixels(references, base.manifest.resolution, keep_aspect=True).to(base.device)
    shown = _best_fit(base, base.manifest.scene_prompts, pixels, class_noun) or []
    captions = [f"a {{}}{scene}" for scene in scenes_of(base, pixels, class_noun)]
    trained = {*base.manifest.training_scenes, *captions}
    untrained = [scene for scene in base.manifest.scene_prompts if scene not in trained]
    return [scene for scene in untrained if scene not in shown] or untrained


def report_scenes(base: Base, references: list[Image.Image], class_noun: str) -> list[str]:
    """Return the scene prompts of the report card."""
    return held_out_scenes(base, references, class_noun)[:REPORT_SCENES]


def evaluation_scenes(base: Base, references: list[Image.Image], class_noun: str) -> list[str]:
    """Return the scene prompts of the evaluations during a training, of different scenes.

    No training prompt names their scenes, and the report card does not use them. Prompts such as "in the city" and
    "with a city in the background" name one scene: the base's CLIP finds the same one of `caption_scenes` in both.
    """
    held_out = held_out_scenes(base, references, class_noun)
    pixels = reference_pixels(references, base.manifest.resolution, keep_aspect=True).to(base.device)
    captions = [f"a {{}}{scene}" for scene in scenes_of(base, pixels, class_noun)]
    used = {*_named_scenes(base, held_out[:REPORT_SCENES] + base.manifest.training_scenes + captions, class_noun)}
    rest = held_out[REPORT_SCENES:]
    chosen = []
    for prompt, scene in zip(rest, _named_scenes(base, rest, class_noun), strict=True):
        if scene not in used:
            used.add(scene)
            chosen.append(prompt)
    return chosen[:EVALUATION_SCENES]


def _named_scenes(base: Base, prompts: list[str], class_noun: str) -> list[str]:
    """Return the caption scene that fits each prompt best; the prompts if the base has none or cannot compare them."""
    scenes = base.manifest.caption_scenes
    words = base.embedded_prompts([scene.format(class_noun) for scene in scenes]) if scenes and prompts else None
    if words is None:
        return prompts
    named = base.embedded_prompts([prompt.format(class_noun) for prompt in prompts])
    assert named is not None
    return [scenes[k] for k in (named @ words.T).argmax(1).tolist()]


def _best_fit(base: Base, scenes: list[str], references: Tensor, class_noun: str) -> list[str] | None:
    """Return the scene that fits each reference best; None if the base cannot compare images with text."""
    words = base.embedded_prompts([scene.format(class_noun) for scene in scenes]) if scenes else None
    if words is None:
        return None
    return [scenes[k] for k in (base.embedded_images(references) @ words.T).argmax(1).tolist()]
