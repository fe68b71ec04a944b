"""Gradient checkpointing: compute activations again in the backward pass instead of keeping them."""

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint


def checkpointed(function: Callable[..., Any], *inputs: Any) -> Any:
    """Return `function(*inputs)`, whose activations are not kept for the backward pass.

    The function must draw no random numbers: their state is not restored, because it may not be read while a CUDA graph
    is captured.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
