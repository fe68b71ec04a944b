"""Work that goes on beside a block of code."""

import threading
from types import TracebackType
from typing import Self


class Background:
    """`with` runs `_keep` in a thread of its own; at the block's end `_ended` tells it to come to its end."""

    _patience: float | None = None
    """Seconds that the block's end waits for it; None: as long as it takes."""

    def __init__(self, name: str) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(self._patience)

    def _keep(self) -> None:
        raise NotImplementedError
