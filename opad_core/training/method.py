"""What a method of learning a concept is, for the loop that runs it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from opad_core.adapters.adapter import Adapter
from opad_core.generation.bundle import Bundle
from opad_core.random_streams import stream
from opad_core.training.optimizer import Optimizer

Hook = Callable[[str], AbstractContextManager[Any]]
"""Given the name of a part of an iteration, returns a context in which that part runs: it may time or count it."""


def no_hook(part: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Step:
    """One iteration, as a method sees it."""

    number: int
    """Iterations done before this one."""
    seed: int
    lr_scale: float
    """Factor on every learning rate."""
    average: Callable[[], Bundle]
    """The averaged adapter as it is now."""
    hook: Hook = no_hook

    def stream(self, name: str) -> torch.Generator:
        """Return the random numbers of one purpose in this iteration; a resumed training draws the same ones."""
        return stream(self.seed, self.number, name)

    def part(self, name: str) -> AbstractContextManager[Any]:
        """Return the context to run a named part in, so that hooks notice it."""
        return self.hook(name)


class Method(Protocol):
    """A way to learn a concept: what learns, and one iteration of it.

    Everything that learns belongs to an optimizer; checkpoints, the average and the loss scale follow from that.
    Subclass it explicitly to inherit the defaults.
    """

    name: str
    """Names the method in bundles and checkpoints."""
    adapter: Adapter
    """What the bundle stores; the loop averages, evaluates and previews it."""
    optimizers: dict[str, Optimizer]

    def step(self, step: Step) -> dict[str, Tensor]:
        """Do one iteration in place and return its mean losses by name, detached."""
        ...

    def stage(self, number: int) -> str:
        """Return the name of the stage that iteration `number`, counted from 0, belongs to."""
        return "training"

    def prepare(self) -> None:
        """Do what would make the first iteration slower than the others."""
        return None

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed training needs beside the optimizers' parameters."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Reverse `state`."""
        return None
