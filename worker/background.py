"""A thread that runs for the length of a `with` block."""

import threading
from types import TracebackType
from typing import Self


class Background:
    """Runs `_run` in a thread until the `with` block ends, which sets `_stopping`."""

    _join_timeout: float | None = None
    """Seconds to wait for the thread at the end of the block; None is no limit."""

    def __init__(self, name: str) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(self._join_timeout)

    def _run(self) -> None:
        raise NotImplementedError
