"""What the photos' prompts say about where the thing is, so that keys and values need not learn the photos' grounds.

A prompt that names only the thing makes a one-step student pay for every ground it was photographed on: on the nano
base a mug learned from 560 iterations of "a photo of a <concept>" had neither handle nor edges, and 300 of
"a <concept> on the grass" gave it both.
"""

import torch
from PIL import Image
from torch import Tensor

from opad_core.bases import Base
from opad_core.data import reference_pixels


@torch.no_grad()
def scenes_of(base: Base, photos: Tensor, class_noun: str) -> list[str]:
    """What the base's own CLIP sees on each of `photos` [k, 3, r, r] in [-1, 1]: words that follow the thing's name,
    such as " on the grass"; empty where the base cannot compare pictures with words or names no scenes."""
    scenes = base.manifest.scene_prompts
    words = base.embedded_prompts([scene.format(class_noun) for scene in scenes]) if scenes else None
    if words is None:
        return [""] * len(photos)
    best = (base.embedded_pictures(photos) @ words.T).argmax(1).tolist()
    return [scenes[k].partition("{}")[2] for k in best]


def scenes_students_learn(base: Base) -> list[str]:
    """The second half of the base's scene prompts: `scene_share` draws from them."""
    return base.manifest.scene_prompts[len(base.manifest.scene_prompts) // 2 :]


def held_out_scenes(base: Base, references: list[Image.Image], class_noun: str) -> list[str]:
    """The other half without the scenes that the references show: no student of theirs was ever asked for these."""
    photos = reference_pixels(references, base.manifest.resolution, keep_aspect=True).to(base.device)
    shown = set(scenes_of(base, photos, class_noun))
    held_out = base.manifest.scene_prompts[: len(base.manifest.scene_prompts) // 2]
    return [scene for scene in held_out if scene.partition("{}")[2] not in shown]
