import dataclasses

import pytest
import torch

from opad_core.adapters.key_value import KeyValueAdapter
from opad_core.bases.loading import load_base
from opad_core.generation.bundle import read_bundle, write_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.pixels import reference_pixels
from opad_core.training.selection import Selection


@pytest.fixture
def bundle(base):
    return read_bundle(
        write_bundle(
            KeyValueAdapter.initial(base.student, base.text.embedding_of("mug")), method="opad", class_noun="dog",
            base="nano", base_sha256=base.manifest.sha256, config={}, seed=0,
        )
    )  # fmt: skip


def by_hand(base, bundle, references, scenes):
    """Return the mean cosines with the references and the prompts, for eight images with seeds from 1000."""
    requests = [ImageRequest(bundle, scenes[k % len(scenes)].format("<concept>"), 1000 + k) for k in range(8)]
    images = torch.from_numpy(OneStepGenerator(base).generate(requests)).permute(0, 3, 1, 2)
    pixels = images.float() / 127.5 - 1
    with torch.no_grad():
        ours, theirs = (base.backbones[0](x, resize_mode="bicubic", normalize=True) for x in (pixels, references))
        fit = base.text_fit(pixels, [scenes[k % len(scenes)].format("dog") for k in range(8)])
    cosines = [[float(a @ b / a.norm() / b.norm()) for b in theirs] for a in ours]
    return sum(map(sum, cosines)) / (8 * len(references)), None if fit is None else float(fit.mean())


def test_a_score_is_likeness_to_the_references_and_fit_to_training_scenes(base, bundle, references):
    pixels = reference_pixels(references, 64, keep_aspect=True)
    likeness, fit = by_hand(base, bundle, pixels, base.manifest.training_scenes)
    assert Selection(base, pixels, "dog").score(bundle) == pytest.approx(likeness + fit, abs=1e-5)


def test_without_text_projection_and_scenes_the_score_is_likeness(base, bundle, references):
    bare = load_base(str(base.folder), device="cpu")
    bare.manifest = dataclasses.replace(base.manifest, training_scenes=[])
    bare.__dict__["text_projection"] = None
    pixels = reference_pixels(references, 64, keep_aspect=True)
    likeness, fit = by_hand(bare, bundle, pixels, ["a photo of a {}"])
    assert fit is None
    assert Selection(bare, pixels, "dog").score(bundle) == pytest.approx(likeness, abs=1e-5)
