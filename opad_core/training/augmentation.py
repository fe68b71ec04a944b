"""Augment the references: (image, prompt) pairs in a seeded order (supplement, section 9)."""

from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.pixels import squared, to_pixels
from opad_core.random_streams import stream
from opad_core.training.config import AugmentationConfig


@dataclass(frozen=True)
class Example:
    image: Image.Image
    """A square RGB image."""
    prompt: str
    """A prompt with the placeholder."""


@dataclass(frozen=True)
class Batch:
    """Augmented images: their pixels or, from the augmentation cache, their latents and features."""

    mask: Tensor
    """[b, 1, h, w] on the latent grid: 1 where the image is, 0 on the canvas."""
    prompts: list[str]
    pixels: Tensor | None = None
    """[b, 3, r, r] in [-1, 1]."""
    latents: Tensor | None = None
    """[b, c, h, w], scaled."""
    features: dict[str, Tensor] = field(default_factory=dict)
    """Features [b, ...] by discriminator."""

    def rows(self, indices: list[int]) -> "Batch":
        """Return the images at these indices."""
        return Batch(
            self.mask[indices],
            [self.prompts[i] for i in indices],
            None if self.pixels is None else self.pixels[indices],
            None if self.latents is None else self.latents[indices],
            {name: feature[indices] for name, feature in self.features.items()},
        )

    def mixed(self, other: "Batch", own: list[bool]) -> "Batch":
        """Return a batch with this batch's images where `own` is True, else those of `other`, of equal size."""

        def chosen(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.stack([a if keep else b for a, b, keep in zip(mine, theirs, own, strict=True)])

        def chosen_if(mine: Tensor | None, theirs: Tensor | None) -> Tensor | None:
            return None if mine is None or theirs is None else chosen(mine, theirs)

        return Batch(
            chosen(self.mask, other.mask),
            [a if keep else b for a, b, keep in zip(self.prompts, other.prompts, own, strict=True)],
            chosen_if(self.pixels, other.pixels),
            chosen_if(self.latents, other.latents),
            {name: chosen(feature, other.features[name]) for name, feature in self.features.items()},
        )


def indices_at(count: int, step: int, *, batch_size: int, seed: int) -> list[int]:
    """Return the indices of one step's examples. Each epoch has all `count` of them in a new seeded order."""
    chosen = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(position, count)
        chosen.append(int(torch.randperm(count, generator=stream(seed, epoch, "order"))[place]))
    return chosen


def augmented(
    examples: list[Example],
    config: AugmentationConfig,
    *,
    latent: int,
    resolution: int,
    generator: torch.Generator,
    canvas: bool = True,
) -> Batch:
    """Augment as Custom Diffusion does: flip, shrink onto a canvas or enlarge and crop, add size words to prompts.

    Without `canvas`, an image that would be shrunk is shown whole, so the share of uncropped images stays the same.
    """
    views = [
        _view(e, config, resolution=resolution, latent=latent, generator=generator, canvas=canvas) for e in examples
    ]
    pixels, masks, prompts = zip(*views, strict=True)
    return Batch(torch.stack(masks), list(prompts), torch.stack(pixels))


def _view(
    example: Example,
    config: AugmentationConfig,
    *,
    resolution: int,
    latent: int,
    generator: torch.Generator,
    canvas: bool,
) -> tuple[Tensor, Tensor, str]:
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    image, prompt = example.image, example.prompt
    if uniform(0, 1) < config.flip_probability:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    shrink = uniform(0, 1) < config.canvas_probability
    scale = uniform(*(config.canvas_scale if shrink else config.crop_scale))
    if shrink and not canvas:
        scale = 1.0
    size = max(1, round(scale * resolution))
    pixels = to_pixels(image.resize((size, size), Image.Resampling.BICUBIC))
    across, down = uniform(0, 1), uniform(0, 1)
    word = uniform(0, 1) < 0.5

    mask = torch.ones(1, latent, latent)
    if size <= resolution:
        left, top = round(across * (resolution - size)), round(down * (resolution - size))
        border = (left, resolution - size - left, top, resolution - size - top)
        if config.canvas_fill == "edge":
            pixels = F.pad(pixels[None], border, mode="replicate")[0]
        else:
            pixels = F.pad(pixels, border)
        if size < resolution:
            # One cell less than the image on each side, because a cell at the border mixes image and canvas.
            cell = resolution / latent
            first = [int(np.ceil(edge / cell)) + (edge > 0) for edge in (top, left)]
            last = [int((edge + size) / cell) - (edge + size < resolution) for edge in (top, left)]
            mask = torch.zeros(1, latent, latent)
            mask[:, first[0] : max(last[0], first[0] + 1), first[1] : max(last[1], first[1] + 1)] = 1
        if config.size_words and scale < config.far_below:
            prompt = _with_size_words(prompt, "a far away" if word else "very small")
    else:
        left, top = round(across * (size - resolution)), round(down * (size - resolution))
        pixels = pixels[:, top : top + resolution, left : left + resolution]
        if config.size_words:
            prompt = _with_size_words(prompt, "zoomed in" if word else "close up")
    return pixels, mask, prompt


def _with_size_words(prompt: str, words: str) -> str:
    """Insert words after the first word, as in Custom Diffusion: "a photo of ..." -> "a very small photo of ..."."""
    first, _, rest = prompt.partition(" ")
    return f"{first} {words} {rest}"


def reference_examples(references: list[Image.Image], scenes: list[str], templates: list[str], *, keep_aspect: bool
                   ) -> list[Example]:  # fmt: skip
    """Combine every reference, with its scene, with every template: 4 references and 25 templates are 100 examples."""
    squares = [squared(image, keep_aspect=keep_aspect) for image in references]
    return [
        Example(square, template.format(PLACEHOLDER) + scene)
        for square, scene in zip(squares, scenes, strict=True)
        for template in templates
    ]
