"""Which iterate becomes the bundle: looks at the averaged student while it learns.

Likeness to the photos rises first, then prompts are forgotten, and where the best of both lies differs by concept.
A look asks for scenes that students learn from; those that the report card asks for stay unseen, and its identity score
is another network's.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from opad_core.bases.loading import Base
from opad_core.generation.bundle import Bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.opad.collaboration import as_pixels
from opad_core.networks.text_encoder import PLACEHOLDER

PICTURES = 8
"""Of one look; on the nano base they cost a third of an iteration."""
FIRST_SEED = 1_000


class Selection:
    """Scores a bundle by DINO likeness to the photos plus, where the base can tell, CLIP's fit to the prompts."""

    def __init__(self, base: Base, photos: Tensor, class_noun: str) -> None:
        """`photos` [k, 3, r, r] in [-1, 1]."""
        scenes = base.manifest.training_scenes or ["a photo of a {}"]
        self._base, self._noun, self._photos = base, class_noun, photos
        self._prompts = [scenes[k % len(scenes)] for k in range(PICTURES)]

    @torch.no_grad()
    def score(self, bundle: Bundle) -> float:
        """Mean cosine to the photos, in [-1, 1], plus mean cosine to the prompts."""
        requests = [
            ImageRequest(bundle, prompt.format(PLACEHOLDER), FIRST_SEED + k) for k, prompt in enumerate(self._prompts)
        ]
        pictures = torch.from_numpy(OneStepGenerator(self._base).generate(requests))
        pixels = as_pixels(pictures, self._base)
        score = (self._seen(pixels) @ self._seen(self._photos).T).mean()
        fit = self._base.text_fit(pixels, [prompt.format(self._noun) for prompt in self._prompts])
        return float(score if fit is None else score + fit.mean())

    def _seen(self, x: Tensor) -> Tensor:
        feature: Tensor = self._base.backbones[0](x, resize_mode="bicubic", normalize=True)
        return F.normalize(feature.flatten(1), dim=-1)
