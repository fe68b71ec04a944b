"""Select the iteration that becomes the bundle: the averaged adapter is evaluated during training.

Likeness to the references rises first, then the prompts have less and less effect. The best iteration differs by
concept. An evaluation uses the training scenes. The report card uses other scenes, and its identity score another
network.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from opad_core.bases.loading import Base
from opad_core.generation.bundle import Bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.pixels import uint8_to_pixels

IMAGES = 8
"""Images per evaluation. On the nano base they cost a third of an iteration."""
FIRST_SEED = 1_000


class Selection:
    """Scores a bundle by DINO likeness to the references plus, if the base has text projection, CLIP fit to prompts."""

    def __init__(self, base: Base, references: Tensor, class_noun: str) -> None:
        """`references` [k, 3, r, r] in [-1, 1]."""
        scenes = base.manifest.training_scenes or ["a photo of a {}"]
        self._base, self._noun, self._references = base, class_noun, references
        self._prompts = [scenes[k % len(scenes)] for k in range(IMAGES)]

    @torch.no_grad()
    def score(self, bundle: Bundle) -> float:
        """Return the mean cosine with the references plus the mean cosine with the prompts, each in [-1, 1]."""
        requests = [
            ImageRequest(bundle, prompt.format(PLACEHOLDER), FIRST_SEED + k) for k, prompt in enumerate(self._prompts)
        ]
        images = torch.from_numpy(OneStepGenerator(self._base).generate(requests))
        pixels = uint8_to_pixels(images, self._base.device)
        score = (self._features(pixels) @ self._features(self._references).T).mean()
        fit = self._base.text_fit(pixels, [prompt.format(self._noun) for prompt in self._prompts])
        return float(score if fit is None else score + fit.mean())

    def _features(self, x: Tensor) -> Tensor:
        feature: Tensor = self._base.backbones[0](x, resize_mode="bicubic", normalize=True)
        return F.normalize(feature.flatten(1), dim=-1)
