import copy

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from opad_core.generation.bundle import read_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator, noise_of
from opad_core.generation.one_step import OneStep
from opad_core.networks.schedule import predict_x0
from opad_core.pixels import to_uint8
from tests.opad_core.generation.test_generation import random_bundle


@pytest.mark.parametrize("count", [1, 3, 8])
def test_an_image_equals_diffusers_unet_at_the_last_timestep(base, count):
    """Diffusers' own forward pass computes the time embedding for each image, and keys and values from the text."""
    student, stock = base.student, copy.deepcopy(base.student.unet)
    stock.set_attn_processor(AttnProcessor2_0())
    prompts = ["a photo of a dog", "a mug in the snow"] * 4
    requests = [ImageRequest(None, prompts[seed], seed) for seed in range(count)]
    z_t = student.first_scale * torch.stack([noise_of(r.seed, base.latent_shape) for r in requests])
    t = torch.full((count,), 999)
    with torch.no_grad():
        text_states = base.text.encode([r.prompt for r in requests], [""] * count, [None] * count)
        prediction = stock(z_t, t, encoder_hidden_states=text_states).sample
        z_student = predict_x0(prediction, z_t, t, student.abar, student.prediction_type)
        expected = to_uint8(base.decode(z_student))
    # float32 sums in another order: 1e-6, which may round a pixel to the next level
    assert np.abs(OneStepGenerator(base).generate(requests).astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_the_functions_have_no_graph_break(base):
    generator = OneStepGenerator(base)
    for name, examples in generator.examples(2).items():
        if name in generator.modules:
            explained = torch._dynamo.explain(generator.modules[name])(*examples)
            assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


def test_packed_keys_and_values_are_those_that_were_packed(base):
    one_step = OneStep(base.student)
    keys_values = base.student.keys_values(base.text.encode(["a photo of a dog"] * 2, [""] * 2, [None] * 2))
    unpacked = one_step.unpack(one_step.pack(keys_values))
    assert list(unpacked) == base.student.layers
    for layer, (key, value) in keys_values.items():
        assert torch.equal(unpacked[layer][0], key)
        assert torch.equal(unpacked[layer][1], value)


def test_a_row_has_the_precision_that_the_unet_reads(base):
    """Its size is that of all keys and values; in half precision, two bytes for each number."""
    half = copy.deepcopy(base.student)
    half.unet.half()
    keys_values = base.student.keys_values(base.text.encode(["a photo of a dog"], [""], [None]))
    numbers = sum(x.numel() for pair in keys_values.values() for x in pair)
    single, packed = OneStep(base.student).pack(keys_values), OneStep(half).pack(keys_values)
    assert (single.dtype, single.nbytes) == (torch.float32, 4 * numbers)
    assert (packed.dtype, packed.nbytes) == (torch.float16, 2 * numbers)


def test_an_erased_concepts_keys_and_values_are_overwritten(base):
    bundles = [read_bundle(random_bundle(base, seed)) for seed in (1, 2)]
    generator = OneStepGenerator(base)
    generator.generate([ImageRequest(bundle, "a <concept>", 1) for bundle in bundles])
    rows = {bundle.id: generator._packed[bundle.id, "a <concept>"] for bundle in bundles}
    generator.forget(bundles[0].id)
    assert not rows[bundles[0].id].any()
    assert rows[bundles[1].id].any()
    assert not generator.has_cached(ImageRequest(bundles[0], "a <concept>", 1))
