"""The base that a benchmark measures."""

from pathlib import Path

import torch

from opad_core import Base, load_base
from opad_core.__main__ import bases_folder
from opad_core.bases.full_size import FullSizeBase
from opad_core.bases.precision import Precision, dtype_of


def chosen_base(
    name: str | None, device: torch.device, folder: Path, *, resolution: int, precision: Precision
) -> Base:  # fmt: skip
    """Return a base by its name or folder. Without one, SD-Turbo's networks with random weights.

    `folder` is for their tokenizer.
    """
    if name is not None:
        return load_base(name, bases=bases_folder(), device=str(device), precision=precision)
    return FullSizeBase(folder, device, resolution=resolution, dtype=dtype_of(precision))


def noun_of(base: Base) -> str:
    return (base.manifest.nouns or ["dog"])[0]
