"""Resize with fixed matrix products: R_h X R_w^T.

`interpolate` and reflection padding have no deterministic backward on CUDA. Matrix products have, so a resumed training
can equal an uninterrupted one bit for bit.
"""

from functools import lru_cache
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

PYRAMID_KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Binomial filter of the Gaussian pyramid (Burt & Adelson)."""


@lru_cache(maxsize=64)
def _interpolation(size: int, new_size: int, mode: str) -> Tensor:
    """Return the matrix [new_size, size] whose columns are `interpolate` of the unit vectors, so both agree."""
    unit = torch.eye(size, dtype=torch.float64)[None, None]
    if mode == "area":
        resized = F.adaptive_avg_pool2d(unit, (new_size, size))
    else:
        resized = F.interpolate(unit, (new_size, size), mode=mode, align_corners=False, antialias=True)
    return resized[0, 0].float()


def resize(x: Tensor, size: int, mode: str) -> Tensor:
    """Resize [b, c, h, w] to [b, c, size, size], antialiased; `mode` is "area", "bilinear" or "bicubic"."""
    if x.shape[-2:] == (size, size):
        return x
    rows = _interpolation(x.shape[-2], size, mode).to(x)
    columns = _interpolation(x.shape[-1], size, mode).to(x)
    return rows @ x @ columns.T


@lru_cache(maxsize=64)
def _reflection(size: int, margin: int) -> Tensor:
    index = torch.arange(-margin, size + margin).abs()
    index = torch.where(index > size - 1, 2 * (size - 1) - index, index)
    return F.one_hot(index, size).float()


def reflect_pad(x: Tensor, margin: int) -> Tensor:
    """Pad [b, c, h, w] to [b, c, h + 2 margin, w + 2 margin] by reflection, without repeating the edge."""
    return _reflection(x.shape[-2], margin).to(x) @ x @ _reflection(x.shape[-1], margin).to(x).T


@lru_cache(maxsize=64)
def _pyramid_level(size: int) -> Tensor:
    blur = torch.zeros(size, size + 4)
    for offset, weight in enumerate(PYRAMID_KERNEL):
        blur += weight * torch.diag(torch.ones(size + 4 - offset), offset)[:size]
    return (blur @ _reflection(size, 2))[::2].contiguous()


def pyramid_down(x: Tensor) -> Tensor:
    """Return the next level of a Gaussian pyramid: 5x5 binomial blur, reflected edges, every second pixel."""
    return _pyramid_level(x.shape[-2]).to(x) @ x @ _pyramid_level(x.shape[-1]).to(x).T


def random_crop(size: int, share: float, generator: torch.Generator) -> tuple[EllipsisType, slice, slice]:
    """Return an index that crops a random square; its side is this share of `size`. A share of 1 keeps all."""
    side = max(1, round(share * size))
    top, left = torch.randint(size - side + 1, (2,), generator=generator).tolist()
    return ..., slice(top, top + side), slice(left, left + side)
