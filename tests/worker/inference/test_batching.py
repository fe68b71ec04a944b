import time
from concurrent.futures import wait
from threading import Event

import numpy as np
import pytest

from opad_core.errors import OpadError
from opad_core.generation import ImageRequest, OneStepGenerator
from worker.inference.batching import MAX_BATCH, MAX_WAITING, Batcher, DeadlinePassed, Overloaded

BEACH = "a <concept> on the beach"


@pytest.fixture
def batcher(generator):
    running = Batcher(generator, seconds_per_image=0.01)
    yield running
    running.close()


def soon() -> float:
    return time.monotonic() + 60


def test_pictures_drawn_in_mixed_batches_are_those_drawn_alone(batcher, base, stored):
    requests = [ImageRequest(stored[seed % 2].bundle, BEACH, seed) for seed in range(10)]
    futures = batcher.submit(requests, deadline=soon())
    together = [future.result(60) for future in futures]
    alone = OneStepGenerator(base)
    for request, drawn in zip(requests, together, strict=True):
        # other kernels for other batch sizes: 1e-6 in floats, which may round to the next of 256 levels
        assert np.abs(drawn.pixels.astype(int) - alone.generate([request])[0]).max() <= 1
    assert not np.array_equal(together[0].pixels, together[1].pixels)
    # ten pictures are a batch of eight, whose first two meet both concepts, and one of two
    assert [drawn.kv_hit for drawn in together] == [False, False] + 8 * [True]


def test_a_prompt_nobody_can_draw_spoils_no_other_picture(batcher, stored):
    good, bad = batcher.submit(
        [ImageRequest(stored[0].bundle, BEACH, 1), ImageRequest(stored[0].bundle, "the beach", 1)], deadline=soon()
    )
    assert good.result(60).pixels.shape == (64, 64, 3)
    with pytest.raises(OpadError, match="does not name <concept>"):
        bad.result(60)


def test_a_wait_longer_than_the_deadline_is_refused_at_once(batcher, stored):
    ahead = batcher.submit(
        [ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(MAX_WAITING)], deadline=soon()
    )
    with pytest.raises(Overloaded) as refusal:
        batcher.submit([ImageRequest(stored[0].bundle, BEACH, 1)], deadline=time.monotonic() + 0.001)
    assert refusal.value.retry_after >= 1
    assert not wait(ahead, 60).not_done


def test_a_full_queue_is_refused_whatever_the_deadline(batcher, stored):
    ahead = batcher.submit(
        [ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(MAX_WAITING)], deadline=soon()
    )
    with pytest.raises(Overloaded):
        batcher.submit([ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(MAX_BATCH)], deadline=soon())
    assert not wait(ahead, 60).not_done


def test_what_is_late_when_its_turn_comes_is_not_drawn(batcher, stored):
    (late,) = batcher.submit([ImageRequest(stored[0].bundle, BEACH, 1)], deadline=time.monotonic() - 1)
    with pytest.raises(DeadlinePassed):
        late.result(60)


def test_closing_finishes_what_is_queued_and_refuses_what_is_new(generator, stored):
    batcher = Batcher(generator, seconds_per_image=0.01)
    queued = batcher.submit([ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(20)], deadline=soon())
    batcher.close()
    assert all(future.result(0).pixels.shape == (64, 64, 3) for future in queued)
    with pytest.raises(Overloaded):
        batcher.submit([ImageRequest(stored[0].bundle, BEACH, 1)], deadline=soon())


def test_nobody_waits_for_a_cancelled_picture(batcher, stored):
    first, *rest = batcher.submit(
        [ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(2 * MAX_BATCH)], deadline=soon()
    )
    rest[-1].cancel()
    done = Event()
    first.add_done_callback(lambda _: done.set())
    assert done.wait(60)
    assert rest[-2].result(60).pixels.shape == (64, 64, 3)


def test_the_predicted_wait_grows_with_what_lies_ahead_and_ends_with_it(batcher, stored):
    assert batcher.predicted_wait() == 0
    ahead = batcher.submit([ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(20)], deadline=soon())
    assert batcher.predicted_wait() > 0
    wait(ahead, 60)
    batcher.submit([ImageRequest(stored[0].bundle, BEACH, 1)], deadline=soon())[0].result(60)
    batcher.close()
    assert batcher.predicted_wait() == 0
