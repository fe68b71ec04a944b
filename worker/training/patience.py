"""A store that is away for some minutes costs a training the time, not the attempt."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from api.domain.storage import StorageUnavailable
from worker.training.lease import Lease

log = structlog.get_logger()

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0

_T = TypeVar("_T")


def patiently(ask: Callable[[], _T], lease: Lease, stop: Callable[[], bool], *, seconds: float) -> _T:
    """What `ask` gives; asked again, later and later, while the store is away and nobody wishes an end.

    The lease is kept meanwhile. Raises StorageUnavailable after `seconds`: another host may reach the store.
    """
    began, pause = time.monotonic(), FIRST_PAUSE
    while True:
        try:
            return ask()
        except StorageUnavailable as error:
            if stop() or lease.cancel_wished or time.monotonic() - began > seconds:
                raise
            log.warning("storage.awaited", error=str(error), seconds=round(time.monotonic() - began, 1))
        lease.wait(pause * random.uniform(0.5, 1))  # trainers that lost the store together do not return together
        pause = min(2 * pause, LONGEST_PAUSE)
