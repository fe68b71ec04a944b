import dataclasses
import time
from concurrent.futures import wait
from threading import current_thread

import numpy as np
import pytest
from prometheus_client import REGISTRY

from opad_core.errors import OpadError
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from worker.inference.batching import MAX_BATCH, MAX_WAITING, Batcher, DeadlinePassed, Overloaded

BEACH = "a <concept> on the beach"


@pytest.fixture
def slow_batcher(generator):
    """A batcher that starts with an estimate of ten seconds per image."""
    running = Batcher(generator, seconds_per_image=10.0)
    yield running
    running.close()


def soon() -> float:
    return time.monotonic() + 60


def pictures_drawn() -> float:
    return REGISTRY.get_sample_value("opad_engine_batch_size_sum") or 0.0


def test_images_from_mixed_batches_equal_those_generated_alone(batcher, base, stored):
    requests = [ImageRequest(stored[seed % 2].bundle, BEACH, seed) for seed in range(10)]
    futures = batcher.submit(requests, deadline=soon())
    together = [future.result(60) for future in futures]
    alone = OneStepGenerator(base)
    for request, image in zip(requests, together, strict=True):
        # other kernels for other batch sizes: 1e-6 in floats, which may round to the next of 256 levels
        assert np.abs(image.pixels.astype(int) - alone.generate([request])[0]).max() <= 1
    assert not np.array_equal(together[0].pixels, together[1].pixels)
    # ten images make a batch of eight with both concepts, and one of two
    assert [image.kv_hit for image in together] == [False, False] + 8 * [True]


def test_an_invalid_prompt_fails_alone(batcher, stored):
    good, bad = batcher.submit(
        [ImageRequest(stored[0].bundle, BEACH, 1), ImageRequest(stored[0].bundle, "the beach", 1)], deadline=soon()
    )
    assert good.result(60).pixels.shape == (64, 64, 3)
    with pytest.raises(OpadError, match="does not name <concept>"):
        bad.result(60)


def test_a_bundle_that_cannot_be_encoded_fails_alone(batcher, stored):
    """Its class noun is no text, which the tokenizer answers with a TypeError."""
    odd = dataclasses.replace(stored[1].bundle, id="odd", class_noun="\ud800")
    good, bad = batcher.submit([ImageRequest(stored[0].bundle, BEACH, 1), ImageRequest(odd, BEACH, 1)], deadline=soon())
    assert good.result(60).pixels.shape == (64, 64, 3)
    with pytest.raises(TypeError):
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


def test_a_request_past_its_deadline_is_not_generated(batcher, stored):
    (late,) = batcher.submit([ImageRequest(stored[0].bundle, BEACH, 1)], deadline=time.monotonic() - 1)
    with pytest.raises(DeadlinePassed):
        late.result(60)


def test_closing_finishes_queued_requests_and_refuses_new_ones(generator, stored):
    batcher = Batcher(generator, seconds_per_image=0.01)
    queued = batcher.submit([ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(20)], deadline=soon())
    batcher.close()
    assert all(future.result(0).pixels.shape == (64, 64, 3) for future in queued)
    with pytest.raises(Overloaded):
        batcher.submit([ImageRequest(stored[0].bundle, BEACH, 1)], deadline=soon())


def test_a_cancelled_request_is_not_generated_and_affects_no_other(batcher, stored):
    before = pictures_drawn()
    futures = batcher.submit(
        [ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(4 * MAX_BATCH)], deadline=soon()
    )
    assert futures.pop(3 * MAX_BATCH).cancel()  # the first image of the fourth batch; three others come before it
    assert all(future.result(60).pixels.shape == (64, 64, 3) for future in futures)
    assert pictures_drawn() - before == 31


def test_a_failure_of_the_generator_fails_only_its_batch(batcher, stored):
    (broken,) = batcher.submit([ImageRequest(stored[0].bundle, None, 1)], deadline=soon())
    assert isinstance(broken.exception(60), TypeError | AttributeError)
    (good,) = batcher.submit([ImageRequest(stored[0].bundle, BEACH, 1)], deadline=soon())
    assert good.result(60).pixels.shape == (64, 64, 3)


def test_a_request_that_can_start_in_time_is_accepted(slow_batcher, stored):
    ask = [ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(40)]
    ahead = slow_batcher.submit(ask, deadline=time.monotonic() + 1000)
    # 40 images of 10 s are ahead, or 32 of 8 s if the first batch is done by now
    assert 200 < slow_batcher.predicted_wait() <= 400
    taken = slow_batcher.submit(ask[:1], deadline=time.monotonic() + 1000)
    with pytest.raises(Overloaded):
        slow_batcher.submit(ask[:1], deadline=time.monotonic() + 100)
    assert not wait(ahead + taken, 60).not_done


def test_the_estimate_approaches_the_measured_time(slow_batcher, stored):
    slowest = 0.0
    for seed in range(40):
        began = time.monotonic()
        slow_batcher.submit([ImageRequest(stored[0].bundle, BEACH, seed)], deadline=soon())[0].result(60)
        slowest = max(slowest, time.monotonic() - began)
    ahead = slow_batcher.submit([ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(40)], deadline=soon())
    # each image removes a fifth of the error: 0.8 ** 40 of 10 s is a millisecond
    assert slow_batcher.predicted_wait() <= 40 * (slowest + 0.002)
    assert not wait(ahead, 60).not_done


def test_the_reported_times_add_up_to_at_most_the_waiting_time(batcher, stored):
    began = time.monotonic()
    futures = batcher.submit([ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(20)], deadline=soon())
    images = [future.result(60) for future in futures]
    waited_ms = 1000 * (time.monotonic() - began)
    assert all(0 < image.queue_ms + image.text_ms + image.unet_decode_ms <= waited_ms for image in images)
    assert images[0].queue_ms < images[8].queue_ms < images[16].queue_ms


def test_the_histogram_has_a_bucket_for_each_batch_size():
    (family,) = (family for family in REGISTRY.collect() if family.name == "opad_engine_batch_size")
    sizes = [sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")]
    assert sizes == ["1.0", "2.0", "3.0", "4.0", "5.0", "6.0", "7.0", "8.0", "+Inf"]


def test_the_predicted_wait_grows_with_the_queue_and_ends_with_it(batcher, stored):
    assert batcher.predicted_wait() == 0
    ahead = batcher.submit([ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(20)], deadline=soon())
    assert batcher.predicted_wait() > 0
    wait(ahead, 60)
    batcher.submit([ImageRequest(stored[0].bundle, BEACH, 1)], deadline=soon())[0].result(60)
    batcher.close()
    assert batcher.predicted_wait() == 0


def test_a_task_runs_between_two_batches_in_the_model_thread(batcher, stored):
    ran = []
    ahead = batcher.submit([ImageRequest(stored[0].bundle, BEACH, seed) for seed in range(20)], deadline=soon())
    task = batcher.between_batches(lambda: ran.append((current_thread().name, sum(f.done() for f in ahead))))
    task.result(60)
    ((thread, done),) = ran
    assert thread == "model"
    assert done in (0, 8, 16, 20)  # whole batches
    assert not wait(ahead, 60).not_done


def test_a_task_that_fails_tells_its_owner_alone(batcher, stored):
    task = batcher.between_batches(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        task.result(60)
    (image,) = batcher.submit([ImageRequest(stored[0].bundle, BEACH, 1)], deadline=soon())
    assert image.result(60).pixels.shape == (64, 64, 3)


def test_a_closed_batcher_runs_no_task(generator):
    batcher, ran = Batcher(generator, seconds_per_image=0.01), []
    batcher.close()
    assert batcher.between_batches(lambda: ran.append(1)).cancelled()
    assert ran == []


def test_after_an_erasure_nothing_of_the_concept_is_cached(batcher, generator, stored):
    request = ImageRequest(stored[0].bundle, BEACH, 1)
    (image,) = batcher.submit([request], deadline=soon())
    image.result(60)
    assert generator.has_cached(request)
    batcher.forget(stored[0].bundle.id).result(60)
    assert not generator.has_cached(request)
