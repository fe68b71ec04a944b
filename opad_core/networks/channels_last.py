"""The layout in which a GPU's convolutions read their weights and their input."""

from collections.abc import Iterable

import torch
from torch import nn


def use_channels_last(networks: Iterable[nn.Module]) -> None:
    """Lay the weights of convolutions out in place as a GPU reads them, which saves a conversion around each.

    PyTorch's GroupNorm on CUDA returns the other layout, so only compiled networks, in which it is compiled too, save
    every conversion.
    """
    for network in networks:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's stubs
