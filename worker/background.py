"""A thread that runs for the length of a `with` block."""

import threading
from types import TracebackType
from typing import Self


class Background:
    """Runs `_keep` in a thread until the `with` block ends, which sets `_ended`."""

    _patience: float | None = None
    """Seconds to wait for the thread at the end of the block; None is no limit."""

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
