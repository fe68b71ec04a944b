"""Detect divergence early, before checkpoints hold a diverged state."""

import math
from collections import deque
from collections.abc import Mapping, Sequence

WINDOW = 10
"""Iterations in a running mean. A divergence is detected within one window."""
EXPLODED = 10.0
"""A running mean above this multiple of its lowest value is a divergence. In a normal training the mean of the
noisiest loss, L_rec, changes by a factor of three."""
_WATCHED = ("rec", "mse", "swd")
"""Losses that should fall. Adversarial losses rise and fall in a normal training."""


class DivergenceCheck:
    """Watches the losses of one training, from where it starts or resumes."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in _WATCHED}
        self._lowest: dict[str, float] = {}

    def trouble(self, iterations: Sequence[Mapping[str, float]]) -> str | None:
        """Add the losses of iterations; return what is wrong with the first that has diverged, or None."""
        return next(filter(None, map(self._trouble, iterations)), None)

    def _trouble(self, losses: Mapping[str, float]) -> str | None:
        broken = [name for name, loss in losses.items() if not math.isfinite(loss)]
        if broken:
            return f"{', '.join(broken)} is not a finite number"
        for name in _WATCHED:
            if name in losses:
                recent = self._recent[name]
                recent.append(losses[name])
                if len(recent) == WINDOW:
                    mean = sum(recent) / WINDOW
                    lowest = self._lowest[name] = min(mean, self._lowest.get(name, mean))
                    if mean > EXPLODED * lowest:
                        return f"{name} rose to {mean / lowest:.0f} times its lowest value"
        return None
