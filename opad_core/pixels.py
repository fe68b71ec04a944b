"""Images as tensors and back: pixels are floats in [-1, 1], channels first."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def squared(image: Image.Image, *, keep_aspect: bool) -> Image.Image:
    """A square RGB image: its middle, or all of it squashed (the published setting)."""
    side = min(image.size)
    if not keep_aspect:
        return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.convert("RGB").crop((left, top, left + side, top + side))


def reference_pixels(references: list[Image.Image], resolution: int, *, keep_aspect: bool) -> Tensor:
    """All references as they are learned without augmentation, [k, 3, r, r] in [-1, 1]."""
    return torch.stack(
        [to_pixels(squared(r, keep_aspect=keep_aspect).resize([resolution] * 2)) for r in references]
    )  # fmt: skip


def to_pixels(image: Image.Image) -> Tensor:
    """[3, h, w] in [-1, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32).copy()).permute(2, 0, 1) / 127.5 - 1


def uint8_to_pixels(images: Tensor, device: torch.device) -> Tensor:
    """[b, r, r, 3] uint8 to [b, 3, r, r] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().to(device) / 127.5 - 1


def to_images(pixels: Tensor) -> list[Image.Image]:
    """[b, 3, h, w], clamped to [-1, 1], to 8-bit RGB."""
    return [Image.fromarray(array) for array in to_uint8(pixels)]


def to_uint8(pixels: Tensor) -> np.ndarray:
    """[b, 3, h, w] floats, clamped to [-1, 1], to [b, h, w, 3] in [0, 255]."""
    scaled = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()
