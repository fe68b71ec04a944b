"""Retries for the trainer's calls to the object store. An outage of some minutes delays the training."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from api.domain.storage import StorageUnavailable
from worker.retries import log_retry
from worker.training.lease import Lease

_T = TypeVar("_T")


def retry_storage(call: Callable[[], _T], lease: Lease, stop: Callable[[], bool], *, seconds: float) -> _T:
    """Return what `call` returns. Repeat it with growing pauses while the store is away.

    The lease is kept. Raises StorageUnavailable after `seconds`, because another host may reach the store, or when the
    training is asked to end.
    """

    def should_give_up(state: RetryCallState) -> bool:
        return stop() or lease.cancel_wished or (state.seconds_since_start or 0) > seconds

    retrying = Retrying(
        retry=retry_if_exception_type(StorageUnavailable),
        stop=should_give_up,
        # random, so that many trainers do not return at the same time
        wait=wait_random_exponential(multiplier=0.5, min=0.25, max=10),
        sleep=lease.wait,
        before_sleep=log_retry("storage.retried"),
        reraise=True,
    )
    return retrying(call)
