"""Bootstrap intervals of means over concepts and seeds (Efron and Tibshirani 1993, chapter 13: percentiles)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95

Values = Mapping[str, Sequence[float]]
"""The values of each concept, one for each seed."""
ByRun = Mapping[tuple[str, int], float]
"""Values by concept and seed."""


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float
    runs: int
    concepts: int

    def text(self, *, digits: int = 3) -> str:
        """Format as "0.546 [0.531, 0.560]"; without an interval where one concept cannot say how others would do."""
        if self.concepts < 2:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def interval(values: Values) -> Interval:
    """Return the mean over concepts of their means over seeds, with its interval.

    Each resample draws concepts with replacement, and then seeds of each drawn concept. Raises ValueError without
    values.
    """
    concepts = [np.asarray(seeds, dtype=float) for seeds in values.values() if len(seeds)]
    if not concepts:
        raise ValueError("there are no values")
    generator = np.random.default_rng(0)
    means = np.stack([_resampled_means(seeds, len(concepts), generator) for seeds in concepts])
    chosen = generator.integers(len(concepts), size=(len(concepts), RESAMPLES))
    places = np.broadcast_to(np.arange(len(concepts))[:, None], chosen.shape)
    resampled = means[chosen, places, np.arange(RESAMPLES)].mean(0)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = float(np.mean([seeds.mean() for seeds in concepts]))
    return Interval(mean, float(low), float(high), sum(map(len, concepts)), len(concepts))


def _resampled_means(seeds: np.ndarray, times: int, generator: np.random.Generator) -> np.ndarray:
    """Return means of resampled seeds, [times, RESAMPLES]: a concept that is drawn twice gets other seeds each time."""
    picked = generator.integers(len(seeds), size=(times, RESAMPLES, len(seeds)))
    means: np.ndarray = seeds[picked].mean(-1)
    return means


def differences(left: ByRun, right: ByRun) -> dict[str, list[float]]:
    """Return left minus right by concept, for the (concept, seed) that both have."""
    paired: dict[str, list[float]] = {}
    for (concept, seed), value in left.items():
        if (concept, seed) in right:
            paired.setdefault(concept, []).append(value - right[concept, seed])
    return paired
