"""Uploads in a thread while the training goes on."""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from types import TracebackType
from typing import Self

import structlog

from worker.training.lease import Lease

log = structlog.get_logger()

CANCEL_SECONDS = 3.0
"""How long the end of a cancelled training waits for an upload."""


class Uploads:
    """Runs uploads of one kind in a thread, one at a time.

    The end of the `with` block waits for the last one, so no thread outlives the training. After a request to cancel,
    it waits at most CANCEL_SECONDS. An upload that ends later does not count, because the job has ended, and its thread
    ends with the process.
    """

    def __init__(self, name: str, lease: Lease) -> None:
        self._name, self._lease = name, lease
        self._running: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.wait()

    def is_idle(self) -> bool:
        """Return whether the last upload has ended. Raises what it raised."""
        if self._running is not None and self._running.done():
            ended, self._running = self._running, None
            ended.result()
        return self._running is None

    def start(self, upload: Callable[[], object]) -> None:
        """Run `upload` in a thread. The last one must have ended."""
        assert self._running is None
        self._running = Future()
        Thread(target=_run, args=(self._running, upload), name=self._name, daemon=True).start()

    def wait(self) -> bool:
        """Wait for the end of the last upload, and return whether it ended. Raises what it raised."""
        deadline = math.inf
        while not self.is_idle():
            assert self._running is not None
            wait([self._running], timeout=0.2)
            self._lease.postpone_stall()
            if self._lease.cancel_wished:
                deadline = min(deadline, time.monotonic() + CANCEL_SECONDS)
            if time.monotonic() >= deadline:
                log.warning("upload.abandoned", upload=self._name)
                self._running = None
                return False
        return True


def _run(future: "Future[object]", upload: Callable[[], object]) -> None:
    try:
        future.set_result(upload())
    except BaseException as error:  # noqa: BLE001  the main thread raises it again
        future.set_exception(error)
