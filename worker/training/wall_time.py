"""Measure where the wall time of an attempt goes. `api.domain.wall_time` names the parts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock


class WallTime:
    """Charges each moment of an attempt to one part, so the parts sum to the time since its start.

    The main thread moves between parts. Other threads may read `seconds` at any time.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start in the part "start". `now` is a clock in seconds."""
        self._now = now
        self.started_at = now()
        """When the attempt began, on this clock."""
        self._parts = ["start"]
        """The part that runs, after those that it interrupts."""
        self._seconds: dict[str, float] = {}
        self._since = self.started_at
        self._lock = Lock()

    def claimed(self, seconds_ago: float) -> None:
        """Add the time since the claim that passed before this object was made to the part "start"."""
        with self._lock:
            before = self.started_at - (self._now() - seconds_ago)
            self.started_at -= before
            self._seconds["start"] = self._seconds.get("start", 0.0) + before

    def begin(self, part: str) -> None:
        """End the part that runs and begin another in its place."""
        with self._lock:
            self._charge()
            self._parts[-1] = part

    @contextmanager
    def part(self, part: str) -> Iterator[None]:
        """Interrupt the part that runs for the length of the block."""
        with self._lock:
            self._charge()
            self._parts.append(part)
        try:
            yield
        finally:
            with self._lock:
                self._charge()
                self._parts.pop()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part until now."""
        with self._lock:
            self._charge()
            return dict(self._seconds)

    def _charge(self) -> None:
        now = self._now()
        self._seconds[self._parts[-1]] = self._seconds.get(self._parts[-1], 0.0) + now - self._since
        self._since = now
