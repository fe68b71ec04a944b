"""Checks of images: the autoencoder, the student's one step, and the same step in diffusers' own pipeline."""

import numpy as np
import torch
from torch import Tensor

from opad_core.bases.loading import Base
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.known_answers.answer import Answer, answer, skipped
from opad_core.known_answers.photos import NO_PHOTOS, Photos, all_pixels
from opad_core.known_answers.stock_pipeline import StockPipeline, published_scheduler
from opad_core.pixels import uint8_to_pixels

MIN_PSNR = 25.0
"""Decibels. SD 2.1's autoencoder has 26 to 27 on COCO (its model card), nano's 30 on the example concepts."""
SEEDS = range(4)
NOUNS = ("dog", "mug")
"""What the checked images show, and a wrong noun to compare with."""
MEAN, CONTRAST, ALIKE, SMOOTH = (25, 230), 20, 0.5, 0.5
"""Levels of 255: bounds of an image's mean, its least standard deviation, and the least mean difference of two seeds.
The last is the least correlation of neighboring pixels; noise has 0, photos 0.9 and more."""


@torch.no_grad()
def autoencoder(base: Base, photos: list[Photos]) -> Answer:
    """Encode and decode photos, and compare."""
    check = "autoencoder"
    if not photos:
        return skipped(check, NO_PHOTOS)
    quality = [psnr(x, _round_trip(base, x)) for x in all_pixels(base, photos).split(1)]
    return answer(
        check,
        min(quality) > MIN_PSNR,
        f"photos come back with {min(quality):.1f} to {max(quality):.1f} dB",
        wrong=f"more than {MIN_PSNR:.0f} dB are expected, else every image loses detail. The autoencoder or its "
        "scaling factor is not the published one; fetch the base again",
    )


def one_step_images(base: Base) -> Answer:
    """Generate four images of a dog with the untouched student, and look at their statistics."""
    images = generated(base)
    gray = images.astype(np.float64).mean(-1)
    means, contrasts = gray.mean((1, 2)), gray.std((1, 2))
    apart = min(np.abs(gray[i] - gray[j]).mean() for i in SEEDS for j in SEEDS if i < j)
    smooth = min(float(np.corrcoef(x[:, 1:].ravel(), x[:, :-1].ravel())[0, 1]) for x in gray)
    holds = (
        MEAN[0] < means.min()
        and means.max() < MEAN[1]
        and contrasts.min() > CONTRAST
        and apart > ALIKE
        and smooth > SMOOTH
    )
    return answer(
        "one-step images",
        holds,
        f"four images have means of {means.min():.0f} to {means.max():.0f}, a contrast of at least "
        f"{contrasts.min():.0f}, differ by at least {apart:.1f} levels; neighboring pixels correlate by {smooth:.2f}",
        wrong=f"expected are {MEAN[0]} to {MEAN[1]}, {CONTRAST}, {ALIKE} and {SMOOTH}. The student's images are gray, "
        "noise or all the same, so something in its one step is wrong; look at them with `python -m opad_core "
        "generate`, and send us this list",
    )


def text_fit(base: Base) -> Answer:
    """Compare how well CLIP finds the images to fit their own prompt and one with a wrong noun."""
    check = "images show what the prompt asks for"
    if base.text_projection is None:
        return skipped(check, f"the base {base.manifest.name!r} cannot compare images with text")
    pixels = uint8_to_pixels(torch.from_numpy(generated(base)), base.device)
    right, wrong = (float(_fit(base, pixels, noun).mean()) for noun in NOUNS)
    return answer(
        check,
        right > wrong,
        f"images of a {NOUNS[0]} fit their prompt by {right:.3f}, 'a photo of a {NOUNS[1]}' by {wrong:.3f}",
        wrong="the student does not follow prompts, or CLIP's parts do not belong together. If the one-step images "
        "look right, it is CLIP: fetch the base again",
    )


def stock_images(base: Base) -> Answer:
    """Compare the images with those of diffusers' own pipeline on the same device."""
    check = "same images as diffusers"
    if base.dtype != torch.float32:
        return skipped(check, "the networks are in half precision; images agree to one level in float32 only")
    stock = StockPipeline(base, published_scheduler(base)).images(
        [f"a photo of a {NOUNS[0]}"] * len(SEEDS), list(SEEDS)
    )
    largest = int(np.abs(np.rint(stock * 255) - generated(base)).max())
    return answer(
        check,
        largest <= 1,
        f"pixels differ from diffusers' one-step pipeline by at most {largest} of 255 levels",
        wrong="OPAD's step is not the published one for these weights. Please report it with this list",
    )


def generated(base: Base) -> np.ndarray:
    """Return the student's images of the first noun, [4, r, r, 3] uint8."""
    prompt = f"a photo of a {NOUNS[0]}"
    return OneStepGenerator(base).generate([ImageRequest(None, prompt, seed) for seed in SEEDS])


def psnr(x: Tensor, y: Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels of pixels in [-1, 1]."""
    return float(10 * torch.log10(4 / ((x - y) ** 2).mean()))


def _round_trip(base: Base, x: Tensor) -> Tensor:
    """Decode the mean of what the encoder finds in pixels x [1, 3, r, r]."""
    return base.decode(base.encode(x, x.new_zeros(1, *base.latent_shape))).clamp(-1, 1)


def _fit(base: Base, pixels: Tensor, noun: str) -> Tensor:
    fit = base.text_fit(pixels, [f"a photo of a {noun}"] * len(pixels))
    assert fit is not None
    return fit
