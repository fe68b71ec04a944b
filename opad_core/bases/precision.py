"""The precision of a base's networks."""

from typing import Literal

import torch

Precision = Literal["float32", "half"]
PrecisionSetting = Literal["auto", "float32", "half"]
"""What a user chooses; `precision_for` turns "auto" into a precision."""
Task = Literal["generation", "training"]


def dtype_of(precision: Precision) -> torch.dtype:
    """Return the dtype of a base in this precision; in half precision each UNet has its own (see `Base`)."""
    return torch.float16 if precision == "half" else torch.float32


def precision_for(
    task: Task, setting: PrecisionSetting, *, device: torch.device, preset: str | None = None
) -> Precision:
    """Return the precision that a setting means for a task on a device. `preset` is that of a training.

    "auto" is half on CUDA, where it is faster and needs less memory, for generation and for the preset `default`. It is
    float32 for other trainings, because `paper` reproduces the published setting, and on other devices, where half
    precision is slower.
    """
    if setting != "auto":
        return setting
    can_be_half = task == "generation" or preset == "default"
    return "half" if can_be_half and device.type == "cuda" else "float32"
