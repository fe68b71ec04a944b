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


def precision_for(task: Task, setting: PrecisionSetting, *, device: torch.device) -> Precision:
    """Return the precision that a setting means for a task on a device.

    "auto" is half for generation on CUDA, where it halves the memory and compiled networks are fastest. It is float32
    for training, which has not been compared at full size, and on other devices, where half precision is slower.
    """
    if setting != "auto":
        return setting
    return "half" if task == "generation" and device.type == "cuda" else "float32"
