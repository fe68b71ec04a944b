"""Detect divergence early, before checkpoints hold a diverged state."""

from collections import deque
from collections.abc import Mapping

from torch import Tensor

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

    def trouble(self, losses: Mapping[str, Tensor]) -> str | None:
        """Add the losses of one iteration; return what is wrong, or None."""
        broken = [name for name, loss in losses.items() if not loss.isfinite()]
        if broken:
            return f"{', '.join(broken)} is not a finite number"
        for name in _WATCHED:
            if name in losses:
                recent = self._recent[name]
                recent.append(float(losses[name]))
                if len(recent) == WINDOW:
                    mean = sum(recent) / WINDOW
                    lowest = self._lowest[name] = min(mean, self._lowest.get(name, mean))
                    if mean > EXPLODED * lowest:
                        return f"{name} rose to {mean / lowest:.0f} times its lowest value"
        return None
