import dataclasses
from collections import Counter

import pytest
import torch

from opad_core.config import preset
from opad_core.training.augmentation import indices_at, photo_examples
from opad_core.training.augmentation_cache import JUDGES, Views, feature_of
from opad_core.training.loop import Training


@pytest.fixture
def config(base):
    return dataclasses.replace(
        preset("default", base.manifest.presets),
        bank=8, canvas_probability=0.0, crop_scale=(1.0, 1.4), size_words=False,
    )  # fmt: skip


@pytest.fixture
def examples(references):
    return photo_examples(references, [""] * 4, ["a {}", "the {}"], keep_aspect=True)


def test_a_bank_holds_what_the_networks_make_of_its_views(base, config, examples):
    unmoved = dataclasses.replace(config, crop_scale=(1.0, 1.0))
    batch = Views(base, unmoved, seed=3).batch(examples, "photos", 0)
    same = Views(base, dataclasses.replace(unmoved, bank=0), seed=3).batch(
        [examples[i] for i in indices_at(8, 0, batch_size=8, seed=3)], "photos", 0
    )
    assert (batch.pixels, same.latents) == (None, None)
    assert batch.prompts == same.prompts
    # Unshrunk, unmoved and unflipped, a view is its photo: what the bank kept is what the networks say now.
    now = base.encode(same.pixels, torch.Generator())
    torch.testing.assert_close(batch.latents, now, atol=1e-5, rtol=0)  # float32, another batch
    for judge, backbone in zip(JUDGES, base.backbones, strict=True):
        now = feature_of(config, judge, backbone, same.pixels)
        torch.testing.assert_close(batch.features[judge], now, atol=1e-5, rtol=0)  # as above


def test_every_view_of_a_bank_comes_once_an_epoch(base, config, examples):
    views = Views(base, config, seed=3)
    seen = [views.batch(examples, "photos", step).latents for step in range(8 // config.batch_size)]
    assert len({tuple(latents.flatten().tolist()) for batch in seen for latents in batch}) == 8
    prompts = Counter(p for step in range(4) for p in views.batch(examples, "photos", step).prompts)
    assert set(prompts) == {"a <concept>", "the <concept>"}


def test_with_a_bank_no_iteration_looks_at_a_photo_again(base, references, config):
    training = Training(base, references, "dog", config, seed=1)
    training.draw_banks()
    shown: list[bool] = []
    hooks = [
        backbone.register_forward_pre_hook(lambda _, pixels: shown.append(pixels[0].requires_grad))
        for backbone in base.backbones
    ]
    losses = training.iterate()
    for hook in hooks:
        hook.remove()
    assert {"d_dino", "d_dinov2", "d_clip"} <= set(losses)
    assert shown.count(False) == 1  # L_id's look at the teacher's target; the photos would be three more


def test_a_resumed_training_draws_the_same_bank(base, config, examples):
    first, again = (Views(base, config, seed=3).batch(examples, "photos", step=5) for _ in range(2))
    assert torch.equal(first.latents, again.latents)
