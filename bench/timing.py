"""Time work that a device may finish later than the call returns."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from opad_core import Base


def milliseconds(base: Base, run: Callable[[], Any]) -> float:
    """Return the duration of one call, including work that the device still has to finish."""
    synchronize(base.device)
    started = perf_counter()
    run()
    synchronize(base.device)
    return 1000 * (perf_counter() - started)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
