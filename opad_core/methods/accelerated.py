"""Learn on a GPU with compiled networks and CUDA graphs, if they learn what the plain loop learns on this machine."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.generation.inductor import compiled_twin, keep_in
from opad_core.training.captured import WARM_UP, CapturedLearning
from opad_core.training.loop import Training

log = logging.getLogger(__name__)

TRIED = WARM_UP + 2
"""Iterations of a trial: the last two are a captured one and a replayed one."""
AGREE = 0.05
"""Largest relative difference of a loss after these iterations. In half precision compiled kernels round in another
order, and each iteration learns from the one before. A graph that reads the wrong memory differs by far more."""


def accelerated(training: Training, build: Callable[[Base], Training], *, cache: Path | None) -> Training:
    """Return a training like `training`, on CUDA, whose iterations are replayed as graphs.

    `build(networks)` makes the same training, which learns with these networks. `cache` is the folder of compiled
    networks; None: they are not compiled. Each way is tried for a few iterations and compared with the plain loop. If
    the networks do not compile or the losses differ, the reason is logged, and the next simpler way is tried.
    """
    base = training.data.base
    ways: dict[str, Callable[[], Training]] = {"CUDA graphs": lambda: build(base)}
    if cache is not None:
        keep_in(cache)
        ways = {"compiled networks and CUDA graphs": lambda: build(base.with_networks(compiled_twin))} | ways
    expected = _tried(training)
    for name, make in ways.items():
        try:
            faster = make()
            faster.learn = CapturedLearning(faster.method, base.device)
            check_losses(_tried(faster), expected)
            return faster
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError, OpadError) as error:  # no compiler, or a failure to compile or capture
            log.warning("learning goes on without %s: %s", name, str(error).strip().splitlines()[0])
    return training


def check_losses(losses: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    """Raise OpadError if the losses of the iterations differ by more than rounding."""
    for iteration, (found, wanted) in enumerate(zip(losses, expected, strict=True), start=1):
        for name, value in wanted.items():
            if not abs(found.get(name, torch.inf) - value) <= AGREE * max(abs(value), 1e-3):
                raise OpadError(
                    f"they learn something else: in iteration {iteration} {name} is {found.get(name)}, not {value}"
                )


def _tried(training: Training) -> list[dict[str, float]]:
    """Run a few iterations, return their losses, and restore the state."""
    start = training.snapshot()
    losses = [{name: float(loss) for name, loss in training.iterate().items()} for _ in range(TRIED)]
    training.load(start)
    return losses
