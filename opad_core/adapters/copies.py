"""Copies of a network that share its weights, but for those that an adapter learns."""

import copy
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def sharing_copy(network: Network) -> Network:
    """Return a copy of the modules with the same tensors, so a change of the copy's modules leaves the original."""
    return copy.deepcopy(network, {id(x): x for x in (*network.parameters(), *network.buffers())})


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one with this dotted name."""
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)


def replace_parameter(network: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put a parameter in the place of the one with this dotted name."""
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, parameter)
