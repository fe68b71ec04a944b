import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from opad_core.adapters.key_value import KeyValueAdapter, pretrained_projections
from opad_core.generation.bundle import read_bundle, write_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.opad.collaboration import generate_samples
from opad_core.methods.opad.config import preset
from opad_core.pixels import reference_pixels, uint8_to_pixels

PROMPTS = [f"{phrase} <concept>" for phrase in ("a photo of a", "a rendering of a")] * 6
SEEDS = list(range(120, 132))
"""With these seeds, not all of the three images most like the references fit, and no image is near the gate."""


@pytest.fixture
def bundle(base, references):
    """A concept far enough from the untouched student that some of its images fit better and some worse."""
    projections, noise = pretrained_projections(base.student), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in projections.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=noise) * parameter.std()
    row = base.text.embedding_of("mug")
    return read_bundle(
        write_bundle(KeyValueAdapter(projections, nn.Parameter(row)), method="opad", class_noun="dog", base="nano",
            base_sha256=base.manifest.sha256, config={}, seed=0,
        )
    )  # fmt: skip


def samples_of(base, bundle, references, **changes):
    config = dataclasses.replace(preset("default", base.manifest.presets), **changes)
    pixels = reference_pixels(references, 64, keep_aspect=True)
    return generate_samples(base, bundle, config, prompts=PROMPTS, seeds=SEEDS, references=pixels), pixels, config


def images_of(base, bundle, prompts):
    """Generate the images one at a time."""
    generator = OneStepGenerator(base)
    requests = [ImageRequest(bundle, prompt, seed) for prompt, seed in zip(prompts, SEEDS, strict=True)]
    return torch.from_numpy(np.concatenate([generator.generate([request]) for request in requests]))


def alike(one, other):
    """Return whether images are equal up to one of 256 levels, by which batch sizes may differ."""
    return one.shape == other.shape and int((one.int() - other.int()).abs().max()) <= 1


def test_strict_keeps_a_sample_for_every_prompt(base, bundle, references):
    (images, kept), _, _ = samples_of(base, bundle, references, collaboration="strict")
    assert kept == list(range(len(PROMPTS)))
    assert alike(images, images_of(base, bundle, PROMPTS))


@pytest.mark.parametrize(("share", "kept"), [(0.25, 3), (0.5, 6), (0.01, 1)])
def test_gated_keeps_the_samples_most_like_the_references_among_those_that_fit(base, bundle, references, share, kept):
    (images, chosen), reference_images, config = samples_of(base, bundle, references, kept_share=share)
    everything = images_of(base, bundle, PROMPTS)
    plain = [prompt.replace("<concept>", "dog") for prompt in PROMPTS]

    def tokens(x):
        return base.identity(x, resize_mode="bilinear", normalize=config.normalize_backbones).flatten(1).numpy()

    with torch.no_grad():
        ours, theirs = tokens(uint8_to_pixels(everything, base.device)), tokens(reference_images)
        fit = base.text_fit(uint8_to_pixels(everything, base.device), plain).tolist()
        usual = base.text_fit(uint8_to_pixels(images_of(base, None, plain), base.device), plain).median()
    cosines = (ours @ theirs.T) / np.linalg.norm(ours, axis=1)[:, None] / np.linalg.norm(theirs, axis=1)
    likeness = cosines.mean(1).tolist()
    fits = [value >= usual for value in fit]
    best = sorted(range(12), key=lambda i: (not fits[i], -likeness[i]))[:kept]
    assert 3 < sum(fits) < 9  # otherwise the gate would not matter, or decide everything
    if kept == 3:
        assert set(best) != set(np.argsort(likeness)[-3:])
    assert chosen == sorted(best)
    assert alike(images, everything[sorted(best)])


def test_a_base_that_cannot_compare_images_with_text_gates_by_likeness_alone(base, bundle, references):
    class Wordless(type(base)):
        text_projection = None

    wordless = Wordless(base.folder, base.manifest, base.device, base.dtype)
    (images, _), reference_images, config = samples_of(wordless, bundle, references, kept_share=0.25)
    everything = images_of(base, bundle, PROMPTS)
    with torch.no_grad():
        ours, theirs = (
            base.identity(x, resize_mode="bilinear", normalize=config.normalize_backbones).flatten(1)
            for x in (uint8_to_pixels(everything, base.device), reference_images)
        )
    likeness = torch.nn.functional.normalize(ours, dim=1) @ torch.nn.functional.normalize(theirs, dim=1).T
    assert alike(images, everything[likeness.mean(1).topk(3).indices.sort().values])
