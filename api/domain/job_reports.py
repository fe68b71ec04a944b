"""What a trainer reports about its job."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from api.domain.training_times import EtaSource

MAX_ITERATIONS = 500
"""Most iterations in one heartbeat; older ones are dropped. A database that is away for the length of a lease delays
fewer."""


@dataclass(frozen=True)
class JobProgress:
    """The progress of a running job in a heartbeat. Losses that are not finite are left out: JSON has no NaN."""

    stage: str
    step: int
    total_steps: int
    eta_seconds: float | None
    losses: Mapping[str, float]
    """Of the newest iteration."""
    preview_key: str | None
    """None keeps the last preview."""
    eta_source: EtaSource | None = None
    iterations: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """The losses of each iteration since the progress that was sent before, by step, for the loss curves."""

    def following(self, unsent: Self) -> Self:
        """Return this progress with the iterations of an earlier one that was not sent."""
        earlier = {step: losses for step, losses in unsent.iterations.items() if step not in self.iterations}
        newest = list({**earlier, **self.iterations}.items())[-MAX_ITERATIONS:]
        return replace(self, iterations=dict(newest))

    def columns(self) -> dict[str, Any]:
        columns: dict[str, Any] = {
            "stage": self.stage,
            "step": self.step,
            "total_steps": self.total_steps,
            "eta_seconds": self.eta_seconds,
            "eta_source": self.eta_source,
            "losses": _finite(self.losses),
            "iterations": [
                {"step": step, "losses": {name: float(f"{value:.5g}") for name, value in _finite(losses).items()}}
                for step, losses in self.iterations.items()
            ],
        }
        return columns if self.preview_key is None else columns | {"preview_key": self.preview_key}


def _finite(losses: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in losses.items() if math.isfinite(value)}


@dataclass(frozen=True)
class StoredExport:
    """A stored file with the bundle in another tool's layout. The fields are the table's columns."""

    layout: str
    key: str
    sha256: str
    size: int
    relative_error: float | None
