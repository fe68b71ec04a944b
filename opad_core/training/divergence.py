"""Noticing that a training diverges before its checkpoints do."""

from collections import deque
from collections.abc import Mapping

from torch import Tensor

WINDOW = 10
"""Iterations in a running mean. A divergence is detected within one window."""
EXPLODED = 10.0
"""How many times its lowest value a mean may reach. In a training that goes well the mean of the noisiest loss, L_rec,
changes threefold."""
_WATCHED = ("rec", "mse", "swd")
"""Losses that fall. The adversarial ones rise and fall as the two sides get ahead of each other."""


class DivergenceCheck:
    """Watches the losses of one training, from where it starts or resumes."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in _WATCHED}
        self._lowest: dict[str, float] = {}

    def trouble(self, losses: Mapping[str, Tensor]) -> str | None:
        """Take the losses of one more iteration; return what is wrong, or None."""
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
                        return f"{name} rose to {mean / lowest:.0f} times what it was"
        return None
