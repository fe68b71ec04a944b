"""What the student gives back: the pictures that both networks learn from in the collaborative stage (section 10)."""

import torch
from torch import Tensor

from opad_core.bases.loading import Base
from opad_core.config import OpadConfig
from opad_core.generation.bundle import Bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.networks.text_encoder import PLACEHOLDER


@torch.no_grad()
def draw_samples(
    base: Base, bundle: Bundle, config: OpadConfig, *, prompts: list[str], seeds: list[int], photos: Tensor
) -> tuple[Tensor, list[str]]:
    """Pictures of the concept, [n, r, r, 3] uint8, and their prompts; `photos` [k, 3, r, r] in [-1, 1].

    "gated" keeps, of those that fit their prompt at least as well as the untouched student's median picture, the
    best share by identity to the photos (inferred: the paper names no selection).
    """
    generator = OneStepGenerator(base)
    pictures = _drawn(generator, bundle, prompts, seeds)
    if config.collaboration == "strict":
        return pictures, prompts
    pixels = as_pixels(pictures, base)
    likeness = torch.cosine_similarity(
        _identity(base, config, pixels)[:, None], _identity(base, config, photos)[None], dim=-1
    ).mean(1)
    plain = [prompt.replace(PLACEHOLDER, bundle.class_noun) for prompt in prompts]
    fit = base.text_fit(pixels, plain)
    if fit is not None:
        usual = base.text_fit(as_pixels(_drawn(generator, None, plain, seeds), base), plain)
        assert usual is not None
        likeness = likeness - 2 * (fit < usual.median())  # behind every picture that fits
    kept = max(1, round(config.kept_share * len(prompts)))
    best = likeness.argsort(descending=True)[:kept].sort().values.cpu()
    return pictures[best].contiguous(), [prompts[i] for i in best.tolist()]


def _identity(base: Base, config: OpadConfig, x: Tensor) -> Tensor:
    tokens: Tensor = base.identity(x, resize_mode="bilinear", normalize=config.normalize_backbones)
    return tokens.flatten(1)


def as_pixels(pictures: Tensor, base: Base) -> Tensor:
    """[b, r, r, 3] uint8 to [b, 3, r, r] in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float().to(base.device) / 127.5 - 1


def _drawn(generator: OneStepGenerator, bundle: Bundle | None, prompts: list[str], seeds: list[int]) -> Tensor:
    """[b, r, r, 3] uint8, eight at a time."""
    requests = [ImageRequest(bundle, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    parts = [torch.from_numpy(generator.generate(requests[i : i + 8])) for i in range(0, len(requests), 8)]
    return torch.cat(parts)
