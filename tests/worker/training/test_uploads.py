"""Uploads in a thread of their own."""

import threading

import pytest
from uuid_utils.compat import uuid7

from worker.training import uploads
from worker.training.lease import Lease
from worker.training.uploads import Uploads
from worker.training.wall_time import WallTime


@pytest.fixture
def lease(settings, sessions):
    """A lease that is not renewed."""
    return Lease(settings, sessions, uuid7(), 1, wall_time=WallTime())


def test_the_caller_goes_on_and_the_end_of_the_block_waits(lease):
    may_end, ended = threading.Event(), []

    def upload() -> None:
        may_end.wait(20)
        ended.append(threading.current_thread().name)

    with Uploads("checkpoint", lease) as one:
        one.start(upload)
        assert not one.is_idle()
        may_end.set()
    assert ended == ["checkpoint"]
    assert "checkpoint" not in [thread.name for thread in threading.enumerate()]


def test_an_error_is_raised_where_the_training_asks(lease):
    def fail() -> None:
        raise MemoryError("no memory for the bytes")

    one = Uploads("checkpoint", lease)
    one.start(fail)
    with pytest.raises(MemoryError, match="no memory"):
        one.wait()
    assert one.is_idle(), "the next one may start"


def test_after_a_request_to_cancel_an_upload_that_hangs_is_left_behind(lease, monkeypatch):
    monkeypatch.setattr(uploads, "CANCEL_SECONDS", 0.1)
    released = threading.Event()
    one = Uploads("checkpoint", lease)
    one.start(lambda: released.wait(20))
    lease.cancel_wished = True
    assert not one.wait()
    released.set()
