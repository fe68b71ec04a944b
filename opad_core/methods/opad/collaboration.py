"""Generate the student's samples, from which both networks learn in the collaborative stage (section 10)."""

import torch
from torch import Tensor

from opad_core.bases.loading import Base
from opad_core.generation.bundle import Bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.opad.config import OpadConfig
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.pixels import uint8_to_pixels


@torch.no_grad()
def generate_samples(
    base: Base, bundle: Bundle, config: OpadConfig, *, prompts: list[str], seeds: list[int], references: Tensor
) -> tuple[Tensor, list[int]]:
    """Return images of the concept, [n, r, r, 3] uint8, and the indices of their prompts.

    `references` [k, 3, r, r] in [-1, 1]. "strict" keeps one image per prompt. "gated" prefers images that fit their
    prompt at least as well as the untouched student's median image. It ranks them by identity to the references and
    keeps the best share (inferred: the paper names no selection).
    """
    generator = OneStepGenerator(base)
    images = _generated(generator, bundle, prompts, seeds)
    if config.collaboration == "strict":
        return images, list(range(len(prompts)))
    pixels = uint8_to_pixels(images, base.device)
    likeness = torch.cosine_similarity(
        _identity(base, config, pixels)[:, None], _identity(base, config, references)[None], dim=-1
    ).mean(1)
    plain = [prompt.replace(PLACEHOLDER, bundle.class_noun) for prompt in prompts]
    fit = base.text_fit(pixels, plain)
    if fit is not None:
        usual = base.text_fit(uint8_to_pixels(_generated(generator, None, plain, seeds), base.device), plain)
        assert usual is not None
        likeness = likeness - 2 * (fit < usual.median())  # ranks them below all images that fit
    kept = max(1, round(config.kept_share * len(prompts)))
    best = likeness.argsort(descending=True)[:kept].sort().values.cpu()
    return images[best].contiguous(), best.tolist()


def _identity(base: Base, config: OpadConfig, x: Tensor) -> Tensor:
    tokens: Tensor = base.identity(x, resize_mode="bilinear", normalize=config.normalize_backbones)
    return tokens.flatten(1)


def _generated(generator: OneStepGenerator, bundle: Bundle | None, prompts: list[str], seeds: list[int]) -> Tensor:
    """Generate images [b, r, r, 3] uint8, eight at a time."""
    requests = [ImageRequest(bundle, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    parts = [torch.from_numpy(generator.generate(requests[i : i + 8])) for i in range(0, len(requests), 8)]
    return torch.cat(parts)
