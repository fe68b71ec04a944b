"""Retries for the trainer's calls to the object store: an outage of some minutes costs time, not the attempt."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from api.domain.storage import StorageUnavailable
from worker.retries import log_retry
from worker.training.lease import Lease

_T = TypeVar("_T")


def retry_storage(ask: Callable[[], _T], lease: Lease, stop: Callable[[], bool], *, seconds: float) -> _T:
    """Return what `ask` returns; call it again, with growing pauses, while the store is away.

    The lease stays alive meanwhile. Raises StorageUnavailable after `seconds`, because another host may reach the
    store, and as soon as somebody wants the training to end.
    """

    def gives_up(state: RetryCallState) -> bool:
        return stop() or lease.cancel_wished or (state.seconds_since_start or 0) > seconds

    retrying = Retrying(
        retry=retry_if_exception_type(StorageUnavailable),
        stop=gives_up,
        # random pauses: trainers that lost the store together do not return together
        wait=wait_random_exponential(multiplier=0.5, min=0.25, max=10),
        sleep=lease.wait,
        before_sleep=log_retry("storage.awaited"),
        reraise=True,
    )
    return retrying(ask)
