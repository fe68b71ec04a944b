import numpy as np
import pytest
import torch

from opad_core.generation.bundle import read_bundle
from opad_core.generation.compiled import capture
from opad_core.generation.fixed_sizes import SIZES, FixedSizes, split
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from tests.opad_core.generation.test_generation import random_bundle

SECONDS = {1: 10.0, 2: 15.0, 4: 22.0, 8: 38.0}


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, [1]),
        (2, [2]),
        (3, [4]),  # padded: 22, where 2 and 1 take 25
        (5, [4, 1]),  # 32, where 8 takes 38
        (6, [4, 2]),  # 37
        (7, [8]),  # padded: 38, where two of 4 take 44
        (8, [8]),
        (11, [8, 4]),  # 60, where 8, 2 and 1 take 63
    ],
)
def test_a_batch_is_split_for_the_least_time(count, sizes):
    assert split(count, SECONDS) == sizes


def doubled():
    """Return a function with recorded sizes, and the lengths that it was called with since."""
    lengths = []

    def function(x):
        lengths.append(len(x))
        return 2 * x

    fixed = FixedSizes(function)
    for size in reversed(SIZES):
        fixed.record(torch.zeros(size, 3))
    lengths.clear()
    return fixed, lengths


@pytest.mark.parametrize("count", range(1, 12))
def test_only_recorded_sizes_are_called_and_padding_is_cut_off(count):
    fixed, lengths = doubled()
    x = torch.arange(count * 3.0).reshape(count, 3)
    assert torch.equal(fixed(x), 2 * x)
    assert set(lengths) <= set(SIZES)
    assert lengths == split(count, fixed.seconds)


def test_an_output_is_not_overwritten_by_the_next_call():
    fixed, _ = doubled()
    first = fixed(torch.ones(2, 3))
    fixed(torch.zeros(2, 3))
    assert torch.equal(first, torch.full((2, 3), 2.0))


@pytest.fixture
def captured(base):
    """A generator whose networks are recorded at fixed sizes, as on a GPU, and these."""
    generator = OneStepGenerator(base)
    functions, steps = capture(generator, generator.modules)
    for step in steps:
        step()
    generator.use(functions, "captured")
    return generator, functions


def test_a_generator_is_made_ready_at_its_own_sizes(base):
    generator = OneStepGenerator(base, sizes=(1, 2))
    functions, steps = capture(generator, generator.modules)
    for step in steps:
        step()
    assert functions["one_step"].seconds.keys() == functions["full"].seconds.keys() == {1, 2}


def test_padded_batches_equal_unpadded_ones(base, captured):
    generator, _ = captured
    bundles = [read_bundle(random_bundle(base, seed)) for seed in (1, 2)]
    requests = [ImageRequest(bundles[seed % 2], "a <concept> on the beach", seed) for seed in range(8)]
    for count in range(1, 9):
        expected = OneStepGenerator(base).generate(requests[:count])
        # other kernels for other batch sizes: 1e-6, which may round a pixel to the next level
        assert np.abs(generator.generate(requests[:count]).astype(int) - expected).max() <= 1


def test_the_generator_takes_as_many_as_are_fastest_together(base, captured):
    generator, functions = captured
    seconds = functions["one_step"].seconds
    assert set(seconds) == set(SIZES)
    assert generator.batch_of(0) == 0
    for waiting in range(1, 12):
        first = split(min(waiting, 8), seconds)[0]
        assert generator.batch_of(waiting) == min(first, waiting)
    assert OneStepGenerator(base).batch_of(11) == 8


def test_an_erased_concept_leaves_the_buffers_of_the_graphs(base, captured):
    generator, functions = captured
    bundle = read_bundle(random_bundle(base, 1))
    generator.generate([ImageRequest(bundle, "a <concept>", seed) for seed in range(2)])
    recordings = [recording for fixed in functions.values() for recording in fixed._recordings.values()]
    buffers = [x for recording in recordings for x in (*recording.inputs, recording.output)]
    assert all(x.any() for x in buffers)
    generator.forget(bundle.id)
    assert not any(x.any() for x in buffers)
