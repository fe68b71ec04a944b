"""The interface between the training loop and a method."""

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
"""Maps the name of a part of an iteration to a context in which it runs, for instance to time it."""


def no_hook(part: str) -> AbstractContextManager[None]:
    return nullcontext()


Inputs = dict[str, Tensor]
"""What one iteration learns from, by name. Inputs with equal names, shapes and dtypes mean the same computation."""


@dataclass(frozen=True)
class Step:
    """One iteration, as a method draws its inputs."""

    number: int
    """Number of iterations before this one."""
    seed: int
    average: Callable[[], Bundle]
    """Returns the current averaged adapter."""
    hook: Hook = no_hook

    def stream(self, name: str) -> torch.Generator:
        """Return the generator of one purpose in this iteration. A resumed training gets the same numbers."""
        return stream(self.seed, self.number, name)

    def part(self, name: str) -> AbstractContextManager[Any]:
        """Return the context in which a named part must run, so that hooks see it."""
        return self.hook(name)


class Method(Protocol):
    """A way to learn a concept: the adapter, the optimizers, and one iteration.

    An iteration has two halves. `draw` uses random numbers, files and words on the host. `learn` computes on the device
    alone: it reads nothing back, and its shapes depend on the shapes of the inputs only. So a CUDA graph can replay it.

    All trained parameters belong to one of the optimizers, so checkpoints and rollbacks include them. Subclass it
    explicitly to inherit the defaults.
    """

    name: str
    """Names the method in bundles and checkpoints."""
    adapter: Adapter
    """The adapter that the bundle stores. The loop averages, evaluates and previews it."""
    teacher_adapter: Adapter | None = None
    """The adapter of the teacher that learned as well, if there is one."""
    optimizers: dict[str, Optimizer]

    def draw(self, step: Step) -> Inputs:
        """Return the inputs of an iteration, on any device."""
        ...

    def learn(self, inputs: Inputs, part: Hook) -> dict[str, Tensor]:
        """Run one iteration in place on inputs on the device, and return its mean losses by name, detached.

        Each named part runs in the context `part(name)`.
        """
        ...

    def valid(self, losses: dict[str, float]) -> dict[str, float]:
        """Return the losses of an iteration without those of steps that were skipped after an overflow."""
        return losses

    def stage(self, number: int) -> str:
        """Return the name of the stage of iteration `number`, counted from 0."""
        return "training"

    def prepare(self) -> None:
        """Do slow preparations before the first iteration."""
        return None

    def state(self) -> dict[str, Tensor]:
        """Return the state that a resumed training needs in addition to the optimizers'."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        return None
