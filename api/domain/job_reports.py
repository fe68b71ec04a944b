"""What a trainer reports about its job."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.domain.training_times import EtaSource


@dataclass(frozen=True)
class JobProgress:
    """The progress of a running job in a heartbeat. Losses that are not finite are left out: JSON has no NaN."""

    stage: str
    step: int
    total_steps: int
    eta_seconds: float | None
    losses: Mapping[str, float]
    preview_key: str | None
    """None keeps the last preview."""
    eta_source: EtaSource | None = None

    def columns(self) -> dict[str, Any]:
        columns: dict[str, Any] = {
            "stage": self.stage,
            "step": self.step,
            "total_steps": self.total_steps,
            "eta_seconds": self.eta_seconds,
            "eta_source": self.eta_source,
            "losses": {name: value for name, value in self.losses.items() if math.isfinite(value)},
        }
        return columns if self.preview_key is None else columns | {"preview_key": self.preview_key}


@dataclass(frozen=True)
class StoredExport:
    """A stored file with the bundle in another tool's layout. The fields are the table's columns."""

    layout: str
    key: str
    sha256: str
    size: int
    relative_error: float | None
