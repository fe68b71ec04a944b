"""Convert images to tensors and back. Pixels are floats in [-1, 1], channels first."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def squared(image: Image.Image, *, keep_aspect: bool) -> Image.Image:
    """Return a square RGB image: the middle with `keep_aspect`, else all of it squashed (the published setting)."""
    side = min(image.size)
    if not keep_aspect:
        return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.convert("RGB").crop((left, top, left + side, top + side))


def reference_pixels(references: list[Image.Image], resolution: int, *, keep_aspect: bool) -> Tensor:
    """Return the references as squares without augmentation, [k, 3, r, r] in [-1, 1]."""
    return torch.stack(
        [to_pixels(squared(r, keep_aspect=keep_aspect).resize([resolution] * 2)) for r in references]
    )  # fmt: skip


def to_pixels(image: Image.Image) -> Tensor:
    """Convert an RGB image to [3, h, w] in [-1, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32).copy()).permute(2, 0, 1) / 127.5 - 1


def uint8_to_pixels(images: Tensor, device: torch.device) -> Tensor:
    """Convert [b, r, r, 3] uint8 to [b, 3, r, r] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().to(device) / 127.5 - 1


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Convert [b, 3, h, w] in [-1, 1] to 8-bit RGB images; values outside are clamped."""
    return [Image.fromarray(array) for array in to_uint8(pixels)]


def to_uint8(pixels: Tensor) -> np.ndarray:
    """Convert [b, 3, h, w] in [-1, 1] to [b, h, w, 3] in [0, 255]; values outside are clamped."""
    return quantized(pixels.detach()).cpu().numpy()


def quantized(pixels: Tensor) -> Tensor:
    """Do what `to_uint8` does and leave the result on the device of the pixels."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous()
