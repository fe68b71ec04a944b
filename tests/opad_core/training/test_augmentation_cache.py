import dataclasses
from collections import Counter

import pytest
import torch

from opad_core.methods.opad.config import preset
from opad_core.methods.opad.discriminator import NAMES
from opad_core.methods.train import new_training
from opad_core.training.augmentation import indices_at, reference_examples
from opad_core.training.augmentation_cache import AugmentedBatches, no_features


@pytest.fixture
def config(base):
    return dataclasses.replace(
        preset("default", base.manifest.presets),
        augmentation_cache=8, canvas_probability=0.0, crop_scale=(1.0, 1.4), size_words=False,
    )  # fmt: skip


@pytest.fixture
def examples(references):
    return reference_examples(references, [""] * 4, ["a {}", "the {}"], keep_aspect=True)


def features_by_hand(base):
    """Return a function that computes the features of whole images by discriminator."""
    return lambda pixels, _: {
        name: backbone(pixels, resize_mode="bicubic", normalize=True)
        for name, backbone in zip(NAMES, base.backbones, strict=True)
    }


def test_a_cache_holds_the_networks_results_for_its_images(base, config, examples):
    unmoved = dataclasses.replace(config, crop_scale=(1.0, 1.0))
    features = features_by_hand(base)
    batch = AugmentedBatches(base, unmoved, seed=3, features=features).batch(examples, "photos", 0)
    fresh = AugmentedBatches(base, dataclasses.replace(unmoved, augmentation_cache=0), seed=3, features=no_features)
    same = fresh.batch([examples[i] for i in indices_at(8, 0, batch_size=8, seed=3)], "photos", 0)
    assert (batch.pixels, same.latents) == (None, None)
    assert batch.prompts == same.prompts
    # Without shrinking, crops and flips, the cache must hold what the networks compute from the references now.
    now = base.encode(same.pixels, base.posterior_noise(8, torch.Generator()))
    torch.testing.assert_close(batch.latents, now, atol=1e-5, rtol=0)  # float32, another batch
    for name, now in features(same.pixels, None).items():
        torch.testing.assert_close(batch.features[name], now, atol=1e-5, rtol=0)  # as above


def test_every_cached_image_comes_once_per_epoch(base, config, examples):
    batches = AugmentedBatches(base, config, seed=3, features=no_features)
    seen = [batches.batch(examples, "photos", step).latents for step in range(8 // config.batch_size)]
    assert len({tuple(latents.flatten().tolist()) for batch in seen for latents in batch}) == 8
    prompts = Counter(p for step in range(4) for p in batches.batch(examples, "photos", step).prompts)
    assert set(prompts) == {"a <concept>", "the <concept>"}


def test_with_a_cache_no_iteration_encodes_a_reference_again(base, references, config):
    training = new_training(base, references, "dog", config, seed=1)
    training.method.prepare()
    shown: list[bool] = []
    hooks = [
        backbone.register_forward_pre_hook(lambda _, pixels: shown.append(pixels[0].requires_grad))
        for backbone in base.backbones
    ]
    losses = training.iterate()
    for hook in hooks:
        hook.remove()
    assert {"d_dino", "d_dinov2", "d_clip"} <= set(losses)
    assert shown.count(False) == 1  # the teacher's target for L_id; the references would be three more


def test_a_resumed_training_fills_the_same_cache(base, config, examples):
    first, again = (
        AugmentedBatches(base, config, seed=3, features=no_features).batch(examples, "photos", step=5) for _ in range(2)
    )
    assert torch.equal(first.latents, again.latents)
