import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from opad_core.adapters.key_value import KeyValueAdapter, pretrained_projections
from opad_core.bases.loading import load_base
from opad_core.errors import OpadError
from opad_core.generation.bundle import read_bundle, write_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from tests.random_base import add_fast_decoder


def random_bundle(base, seed, **changes):
    generator = torch.Generator().manual_seed(seed)
    projections = pretrained_projections(base.student).requires_grad_(False)
    for parameter in projections.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    fields = {"class_noun": "dog", "base": "nano", "base_sha256": base.manifest.sha256, "seed": seed} | changes
    row = torch.randn(base.text.encoder.config.hidden_size, generator=generator)
    return write_bundle(KeyValueAdapter(projections, nn.Parameter(row)), method="opad", config={}, **fields)


def test_a_mixed_batch_equals_single_images(base):
    bundles = [read_bundle(random_bundle(base, seed)) for seed in (1, 2)]
    requests = [
        ImageRequest(bundles[0], "a <concept> on the beach", 5),
        ImageRequest(None, "a mug in the snow", 6),
        ImageRequest(bundles[1], "a photo of a <concept>", 7),
    ]
    together = OneStepGenerator(base).generate(requests)
    alone = np.concatenate([OneStepGenerator(base).generate([r]) for r in requests])
    # Other batch sizes use other kernels, which differ by 1e-6. That may round to the next of 256 levels.
    assert np.abs(together.astype(int) - alone).max() <= 1
    assert together.shape == (3, 64, 64, 3)


@pytest.fixture(scope="module")
def with_fast(base, tmp_path_factory):
    """The same base with a fast decoder, which was added later."""
    folder = shutil.copytree(base.folder, tmp_path_factory.mktemp("with_fast") / "base")
    add_fast_decoder(folder)
    return load_base(str(folder), device="cpu")


def test_a_batch_of_both_decoders_takes_one_pass_of_the_unet_and_equals_the_two_alone(base, with_fast):
    bundle = read_bundle(random_bundle(base, 1))
    decoders = ("fast", "full", "fast", "full", "full")
    mixed = [ImageRequest(bundle, "a <concept>", seed, decoder) for seed, decoder in enumerate(decoders)]
    passes = []
    hook = with_fast.student.unet.conv_in.register_forward_hook(lambda *_: passes.append(1))
    together = OneStepGenerator(with_fast).generate(mixed)
    hook.remove()
    assert passes == [1]
    of_each = {
        name: OneStepGenerator(with_fast).generate([request for request in mixed if request.decoder == name])
        for name in ("full", "fast")
    }
    alone = np.stack([of_each["fast"][0], of_each["full"][0], of_each["fast"][1], *of_each["full"][1:]])
    # Other batch sizes use other kernels, which differ by 1e-6. That may round to the next of 256 levels.
    assert np.abs(together.astype(int) - alone).max() <= 1
    without = OneStepGenerator(base).generate([ImageRequest(bundle, "a <concept>", 1)])
    assert np.abs(together[1].astype(int) - without[0]).max() <= 1
    [same_seed] = OneStepGenerator(with_fast).generate([ImageRequest(bundle, "a <concept>", 0, "full")])
    assert np.abs(together[0].astype(int) - same_seed).max() > 10  # a random decoder draws something else


def test_a_decoder_that_the_base_lacks_is_refused(base):
    generator = OneStepGenerator(base)
    with pytest.raises(OpadError, match="the base 'nano' has no fast decoder here"):
        generator.prepare(ImageRequest(None, "a dog", 1, "fast"))
    with pytest.raises(OpadError, match="the base 'nano' has no fast decoder here"):
        generator.generate([ImageRequest(None, "a dog", 0), ImageRequest(None, "a dog", 1, "fast")])


def test_the_seed_decides_the_image(base):
    generator = OneStepGenerator(base)
    same, again, other = (generator.generate([ImageRequest(None, "a dog", s)]) for s in (1, 1, 2))
    assert np.array_equal(same, again)
    assert not np.array_equal(same, other)


def test_keys_and_values_are_kept_per_concept_and_prompt(base):
    generator = OneStepGenerator(base, cached_prompts=1)
    bundle = read_bundle(random_bundle(base, 1))
    request = ImageRequest(bundle, "a <concept>", 1)
    assert not generator.has_cached(request)
    generator.generate([request])
    assert generator.has_cached(request)
    generator.generate([ImageRequest(bundle, "the <concept>", 1)])
    assert not generator.has_cached(request)


def test_the_prompt_that_was_used_longest_ago_leaves_the_cache(base):
    generator = OneStepGenerator(base, cached_prompts=2)
    bundle = read_bundle(random_bundle(base, 1))
    first, second, third = (ImageRequest(bundle, prompt, 1) for prompt in ("a <concept>", "the <concept>", "<concept>"))
    for request in (first, second, first, third):
        generator.prepare(request)
    assert [generator.has_cached(request) for request in (first, second, third)] == [True, False, True]


def test_a_bundle_survives_its_bytes(base):
    data = random_bundle(base, 1)
    bundle = read_bundle(data)
    assert random_bundle(base, 1) == data
    assert set(bundle.adapter.projections.layers) == set(base.student.layers)


def test_a_bundle_from_before_adapters_had_names_is_read(base):
    """Its config names a setting that no longer exists; nothing reads it."""
    data = random_bundle(base, 1)
    old = {"format": 1, "class_noun": "dog", "base": "nano", "base_sha256": base.manifest.sha256, "seed": 1}
    old["config"] = {"bank": 100}
    bundle = read_bundle(save(load(data), metadata={"manifest": json.dumps(old)}))
    request = ImageRequest(bundle, "a <concept>", 3)
    expected = ImageRequest(read_bundle(data), "a <concept>", 3)
    assert np.array_equal(OneStepGenerator(base).generate([request]), OneStepGenerator(base).generate([expected]))


def test_a_bundle_of_an_unknown_adapter_is_refused(base):
    manifest = {
        "format": 1,
        "class_noun": "dog",
        "base": "nano",
        "base_sha256": base.manifest.sha256,
        "adapter": "lora",
    }
    with pytest.raises(OpadError, match="adapter is 'lora'; this version knows key_value, low_rank"):
        read_bundle(save(load(random_bundle(base, 1)), metadata={"manifest": json.dumps(manifest)}))


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        (lambda b: ImageRequest(b, "a dog", 1), "does not name <concept>"),
        (lambda b: ImageRequest(None, "a <concept>", 1), "no concept was given"),
        (lambda b: ImageRequest(None, "a dog", -1), "seed must be in"),
    ],
)
def test_an_invalid_request_says_why(base, request_of, message):
    with pytest.raises(OpadError, match=message):
        OneStepGenerator(base).generate([request_of(read_bundle(random_bundle(base, 1)))])


def test_a_bundle_of_another_base_is_refused(base):
    bundle = read_bundle(random_bundle(base, 1, base_sha256="0" * 64))
    with pytest.raises(OpadError, match="another base"):
        OneStepGenerator(base).generate([ImageRequest(bundle, "a <concept>", 1)])
