"""A queue and the one thread that owns the model.

Each batch takes what is waiting at that moment, with concepts mixed; it does not wait for more. Where the generator has
fixed batch sizes, it decides how many of the waiting images go first.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread
from typing import Any

import numpy as np
import structlog
from prometheus_client import Gauge, Histogram

from opad_core import MAX_BATCH, ImageRequest, OneStepGenerator, OpadError

log = structlog.get_logger()

MAX_WAITING = 64
PREDICTED_WAIT = Gauge("opad_engine_predicted_wait_seconds", "Time until a new request would start")
BATCH_SIZE = Histogram(
    "opad_engine_batch_size", "Images generated in one forward pass", buckets=range(1, MAX_BATCH + 1)
)


class Overloaded(Exception):
    """The queue is full, or the predicted wait exceeds the deadline of the request."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"busy for about {retry_after:.0f} s")
        self.retry_after = retry_after


class DeadlinePassed(Exception):
    """The deadline passed before the request reached the model."""


@dataclass(frozen=True)
class GeneratedImage:
    pixels: np.ndarray
    """[r, r, 3] uint8."""
    queue_ms: float
    text_ms: float
    unet_decode_ms: float
    """Time of the whole batch."""
    kv_hit: bool


@dataclass
class _Waiting:
    request: ImageRequest
    deadline: float
    """On the monotonic clock."""
    future: "Future[GeneratedImage]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """A bounded queue in front of the model thread. Every method may be called from any thread."""

    def __init__(self, generator: OneStepGenerator, *, seconds_per_image: float = 0.0) -> None:
        self._generator = generator
        self.seconds_per_image = seconds_per_image
        """An estimate, which each batch corrects."""
        self._waiting: deque[_Waiting] = deque()
        self._tasks: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._in_progress = 0
        self._closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._work, name="model", daemon=True)  # an engine whose start fails must end
        self._thread.start()

    def submit(self, requests: list[ImageRequest], *, deadline: float) -> list["Future[GeneratedImage]"]:
        """Queue the requests and return a future for each one. Raises Overloaded, which queues none of them.

        An empty queue accepts every request, so that a wrong estimate cannot refuse forever.
        """
        items = [_Waiting(request, deadline) for request in requests]
        with self._changed:
            ahead, wait = self._ahead(), self.predicted_wait()
            too_late = time.monotonic() + wait + len(items) * self.seconds_per_image > deadline
            if self._closed or (ahead and (too_late or ahead + len(items) > MAX_WAITING)):
                raise Overloaded(retry_after=max(1, math.ceil(wait)))
            self._waiting.extend(items)
            self._changed.notify()
        return [item.future for item in items]

    def predicted_wait(self) -> float:
        """Return the seconds that a new request would wait before it starts."""
        return self._ahead() * self.seconds_per_image

    def _ahead(self) -> int:
        return len(self._waiting) + self._in_progress

    def between_batches(self, task: Callable[[], Any]) -> "Future[Any]":
        """Run the task in the model thread before its next batch, and return a future of its result.

        The future is cancelled if the thread has ended.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                future.cancel()
            else:
                self._tasks.append((task, future))
                self._changed.notify()
        return future

    def forget(self, bundle_id: str) -> "Future[None]":
        """Erase what the generator has cached of a bundle, before the next batch."""
        return self.between_batches(partial(self._generator.forget, bundle_id))

    def close(self) -> None:
        """Refuse new requests, finish the queued ones and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._take():
            try:
                self._generate(batch)
            except Exception as error:  # the outermost loop of the thread; the next batch may succeed
                log.exception("batch.failed", images=len(batch))
                for item in batch:
                    if not item.future.done():
                        item.future.set_exception(error)
            with self._changed:
                self._in_progress = 0

    def _take(self) -> list[_Waiting]:
        """Wait for requests and return those that are still wanted. Return none when closed and finished."""
        batch: list[_Waiting] = []
        while not batch:
            self._wait_and_run_tasks()
            with self._changed:
                if self._closed and not self._waiting:
                    break
                batch = [item for item in self._pop_some() if _still_wanted(item)]
                self._in_progress = len(batch)
        return batch

    def _wait_and_run_tasks(self) -> None:
        """Return when requests wait or the queue is closed, and no task is left."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._tasks or self._closed)
                if not self._tasks:
                    return
                task, future = self._tasks.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(task())
            except Exception as error:  # noqa: BLE001  # it belongs to whoever waits for the future
                future.set_exception(error)

    def _pop_some(self) -> list[_Waiting]:
        return [self._waiting.popleft() for _ in range(self._generator.batch_of(len(self._waiting)))]

    def _generate(self, batch: list[_Waiting]) -> None:
        """Encode each prompt separately, so that a bad prompt or bundle fails alone. Then generate all images."""
        started = time.monotonic()
        prepared: list[tuple[_Waiting, bool, float]] = []
        for item in batch:
            known, before = self._generator.has_cached(item.request), time.monotonic()
            try:
                self._generator.prepare(item.request)
            except OpadError as error:
                item.future.set_exception(error)
                continue
            except Exception as error:  # whatever a damaged bundle causes belongs to its own request
                log.exception("image.failed")
                item.future.set_exception(error)
                continue
            prepared.append((item, known, time.monotonic() - before))
        if not prepared:
            return
        BATCH_SIZE.observe(len(prepared))
        before = time.monotonic()
        images = self._generator.generate([item.request for item, _, _ in prepared])
        now = time.monotonic()
        self.seconds_per_image += 0.2 * ((now - started) / len(batch) - self.seconds_per_image)
        for (item, known, text_seconds), pixels in zip(prepared, images, strict=True):
            item.future.set_result(
                GeneratedImage(
                    pixels=pixels,
                    queue_ms=1000 * (started - item.since),
                    text_ms=1000 * text_seconds,
                    unet_decode_ms=1000 * (now - before),
                    kv_hit=known,
                )
            )


def _still_wanted(item: _Waiting) -> bool:
    if not item.future.set_running_or_notify_cancel():
        return False
    if time.monotonic() > item.deadline:
        item.future.set_exception(DeadlinePassed())
        return False
    return True
