"""Resize with fixed matrix products: R_h X R_w^T.

`interpolate` and reflection padding have no deterministic backward on CUDA. Matrix products have, so a resumed training
can equal an uninterrupted one bit for bit.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Concatenate, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

PYRAMID_KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Binomial filter of the Gaussian pyramid (Burt & Adelson)."""


P = ParamSpec("P")


def constant(build: Callable[P, Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Return a function that builds a constant once for each device and dtype, those of its first argument.

    Compiled code holds the tensor, and a captured CUDA graph copies nothing from the host.
    """

    @lru_cache(maxsize=256)
    def built(device: torch.device, dtype: torch.dtype, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        return build(*args, **kwargs).to(device, dtype)

    # A function of its own, because the compiler looks through the cache. PyTorch gives the decorator no type.
    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def inlined(*args: Any, **kwargs: Any) -> Tensor:
        return built(*args, **kwargs)

    def constant_like(like: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        constant: Tensor = inlined(like.device, like.dtype, *args, **kwargs)
        return constant

    return constant_like


@constant
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
    rows = _interpolation(x, x.shape[-2], size, mode)
    columns = _interpolation(x, x.shape[-1], size, mode)
    return rows @ x @ columns.T


def _reflection(size: int, margin: int) -> Tensor:
    index = torch.arange(-margin, size + margin).abs()
    index = torch.where(index > size - 1, 2 * (size - 1) - index, index)
    return F.one_hot(index, size).float()


_reflection_like = constant(_reflection)


def reflect_pad(x: Tensor, margin: int) -> Tensor:
    """Pad [b, c, h, w] to [b, c, h + 2 margin, w + 2 margin] by reflection, without repeating the edge."""
    return _reflection_like(x, x.shape[-2], margin) @ x @ _reflection_like(x, x.shape[-1], margin).T


@constant
def _pyramid_level(size: int) -> Tensor:
    blur = torch.zeros(size, size + 4)
    for offset, weight in enumerate(PYRAMID_KERNEL):
        blur += weight * torch.diag(torch.ones(size + 4 - offset), offset)[:size]
    return (blur @ _reflection(size, 2))[::2].contiguous()


def pyramid_down(x: Tensor) -> Tensor:
    """Return the next level of a Gaussian pyramid: 5x5 binomial blur, reflected edges, every second pixel."""
    return _pyramid_level(x, x.shape[-2]) @ x @ _pyramid_level(x, x.shape[-1]).T


def random_crop(size: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the rows and columns [side] of a random square, whose side is this share of `size`."""
    side = max(1, round(share * size))
    top, left = torch.randint(size - side + 1, (2,), generator=generator)
    return top + torch.arange(side), left + torch.arange(side)


def cropped(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the rows and columns of x [b, c, h, w]. The shape of the result does not depend on their values."""
    if len(rows) == x.shape[-2] and len(columns) == x.shape[-1]:
        return x
    return x.index_select(-2, rows).index_select(-1, columns)
