"""Noticing that a training goes wrong before its checkpoints do."""

from collections import deque
from collections.abc import Mapping

from torch import Tensor

WINDOW = 10
"""Iterations that a mean is taken over, so as many until a divergence is noticed at the latest."""
EXPLODED = 10.0
"""Times the lowest mean so far. Within a sound training the mean of the noisiest loss, L_rec, changes threefold."""
_WATCHED = ("rec", "mse", "swd")
"""Losses that fall. The adversarial ones rise and fall as the two sides get ahead of each other."""


class Watch:
    """Of one training, from where it starts or goes on."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in _WATCHED}
        self._lowest: dict[str, float] = {}

    def trouble(self, losses: Mapping[str, Tensor]) -> str | None:
        """What is wrong after this iteration, in words; None as long as nothing is."""
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
