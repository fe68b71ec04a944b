"""CLIP-T, CLIP-I and DINO as two groups of authors computed them. The two are not comparable with each other.

| score | here | network | size | cosines |
|---|---|---|---|---|
| CLIP-T of OPAD | `opad_clip_t` | CLIP ViT-L/14 at 336 pixels | squashed to 512 | of images with their prompts |
| CLIP-I of OPAD | `opad_clip_i` | the same | squashed to 512 | of all pairs of images and photos, at least 0 |
| "DINO" of OPAD | `opad_dino` | DINOv2 ViT-L/14 | squashed to 512, then to 224 | of all pairs, at least 0 |
| CLIP-T of DreamBooth | `dreambooth_clip_t` | CLIP ViT-B/32 | short side 224, middle | of images with their prompts |
| CLIP-I of DreamBooth | `dreambooth_clip_i` | the same | short side 224, middle | of all pairs |
| DINO of DreamBooth | `dreambooth_dino` | DINO ViT-S/16 | short side 256, middle 224 | of all pairs |

In prompts the class noun replaces the placeholder. OPAD's networks and sizes are those of its authors' evaluation.
DreamBooth (Ruiz et al., CVPR 2023, section 4.2) names ViT-S/16 for DINO and no size of CLIP; papers that compare with
it use ViT-B/32. Inferred: the interpolation (bicubic; bilinear for OPAD's DINO), that photos are squashed before OPAD's
CLIP, and DreamBooth's sizes, which are those of the networks' own evaluations. OPAD's authors took DINOv2 from
torch.hub, which interpolates position embeddings slightly differently.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer, Dinov2Model, ViTModel

from opad_core.bases.metric_networks import CLIP_B32, CLIP_L336, DINO_S16, DINOV2_L14, METRICS, metrics_manifest
from opad_core.bases.networks import read_network, verified

SQUASHED_SIDE = 512
"""Side in pixels to which OPAD's metrics squash each image first."""
DINO_SIDE, DINO_SHORT_SIDE = 224, 256
PUBLISHED = {
    "opad_clip_t": "CLIP-T (OPAD)",
    "opad_clip_i": "CLIP-I (OPAD)",
    "opad_dino": "DINOv2 (OPAD)",
    "dreambooth_clip_t": "CLIP-T (DreamBooth)",
    "dreambooth_clip_i": "CLIP-I (DreamBooth)",
    "dreambooth_dino": "DINO (DreamBooth)",
}
"""The scores, as tables name them."""
_ONE_PASS = 16
"""The most images that one pass embeds."""


@dataclass(frozen=True)
class ImageEmbedding:
    """A network that embeds images, with what comes before it."""

    features: Callable[[Tensor], Tensor]
    """Normalized pixels [b, 3, h, w] to features [b, d]."""
    prepare: Callable[[Image.Image], Image.Image]
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit-length features [n, d] on the CPU."""
        parts = [images[k : k + _ONE_PASS] for k in range(0, len(images), _ONE_PASS)]
        return torch.cat([F.normalize(self.features(self._pixels(part)), dim=-1).cpu() for part in parts])

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        arrays = np.stack([np.asarray(self.prepare(image.convert("RGB")), dtype=np.float32) for image in images])
        pixels = (arrays / 255 - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device)


class PublishedMetrics:
    """The four networks, in float32. They take 3.6 GB of memory, and are read once."""

    def __init__(self, bases: Path, device: torch.device) -> None:
        """Read the folder `metrics` in the folder of fetched bases. Raises OpadError if it is missing or damaged."""
        self._folder, self._manifest, self._device = bases / METRICS, metrics_manifest(bases), device
        self._clip_l336, self._clip_b32 = (self._network(CLIPModel, name) for name in (CLIP_L336, CLIP_B32))
        self._words = {name: CLIPTokenizer.from_pretrained(self._folder / name) for name in (CLIP_L336, CLIP_B32)}
        dinov2 = self._network(Dinov2Model, DINOV2_L14)
        dino = self._network(ViTModel, DINO_S16, add_pooling_layer=False)
        side, small = (self._manifest.backbones[name]["input"] for name in (CLIP_L336, CLIP_B32))
        self.opad_clip = self._images(
            CLIP_L336,
            lambda x: self._clip_l336.get_image_features(pixel_values=x).pooler_output,
            lambda image: squashed(squashed(image, SQUASHED_SIDE, bicubic=True), side, bicubic=True),
        )
        self.opad_dino = self._images(
            DINOV2_L14,
            lambda x: dinov2(pixel_values=x).last_hidden_state[:, 0],
            lambda image: squashed(squashed(image, SQUASHED_SIDE, bicubic=False), DINO_SIDE, bicubic=False),
        )
        self.dreambooth_clip = self._images(
            CLIP_B32,
            lambda x: self._clip_b32.get_image_features(pixel_values=x).pooler_output,
            lambda image: middle_of(image, short_side=small, crop=small),
        )
        self.dreambooth_dino = self._images(
            DINO_S16,
            lambda x: dino(pixel_values=x, interpolate_pos_encoding=True).last_hidden_state[:, 0],
            lambda image: middle_of(image, short_side=DINO_SHORT_SIDE, crop=DINO_SIDE),
        )

    @torch.no_grad()
    def scores(
        self, images: Sequence[Image.Image], references: Sequence[Image.Image], prompts: Sequence[str]
    ) -> dict[str, float]:
        """Return the means over images, each with its own prompt, in which the class noun stands for the concept."""
        opad, opad_references = (self.opad_clip.embed(x) for x in (images, references))
        dinov2, dinov2_references = (self.opad_dino.embed(x) for x in (images, references))
        clip, clip_references = (self.dreambooth_clip.embed(x) for x in (images, references))
        dino, dino_references = (self.dreambooth_dino.embed(x) for x in (images, references))
        return {
            "opad_clip_t": own_prompt(opad, self.text(CLIP_L336, prompts)),
            "opad_clip_i": all_pairs(opad, opad_references, clamped=True),
            "opad_dino": all_pairs(dinov2, dinov2_references, clamped=True),
            "dreambooth_clip_t": own_prompt(clip, self.text(CLIP_B32, prompts)),
            "dreambooth_clip_i": all_pairs(clip, clip_references, clamped=False),
            "dreambooth_dino": all_pairs(dino, dino_references, clamped=False),
        }

    @torch.no_grad()
    def text(self, name: str, prompts: Sequence[str]) -> Tensor:
        """Return unit-length features [n, d] on the CPU of prompts by one of the two CLIPs."""
        clip = self._clip_l336 if name == CLIP_L336 else self._clip_b32
        length = clip.config.text_config.max_position_embeddings
        different = list(dict.fromkeys(prompts))
        tokens = self._words[name](
            different, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).to(self._device)
        features = clip.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        unit = F.normalize(features.pooler_output, dim=-1).cpu()
        return unit[[different.index(prompt) for prompt in prompts]]

    def _images(
        self, name: str, features: Callable[[Tensor], Tensor], prepare: Callable[[Image.Image], Image.Image]
    ) -> ImageEmbedding:
        statistics = self._manifest.backbones[name]
        return ImageEmbedding(features, prepare, statistics["mean"], statistics["std"], self._device)

    def _network(self, kind: Any, name: str, **options: Any) -> Any:
        folder = verified(self._folder, self._manifest, name)
        return read_network(kind, folder, torch.float32, self._device, **options)


def squashed(image: Image.Image, side: int, *, bicubic: bool) -> Image.Image:
    """Scale all of an image to a square, whatever its shape."""
    return image.resize((side, side), Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR)


def middle_of(image: Image.Image, *, short_side: int, crop: int) -> Image.Image:
    """Scale an image so that its short side has this length, and return the square in its middle."""
    width, height = (short_side * side // min(image.size) for side in image.size)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    return scaled.crop((left, top, left + crop, top + crop))


def own_prompt(images: Tensor, prompts: Tensor) -> float:
    """Return the mean cosine of unit features [n, d] of images with those of their prompts."""
    return float((images * prompts).sum(-1).mean())


def all_pairs(images: Tensor, references: Tensor, *, clamped: bool) -> float:
    """Return the mean cosine of unit features [n, d] with [k, d], over all n x k pairs; `clamped`: each at least 0."""
    cosines = images @ references.T
    return float((cosines.clamp(min=0) if clamped else cosines).mean())
