"""Compare Custom Diffusion with its equation, written here in float64 on the student's UNet."""

import copy
import dataclasses

import pytest
import torch
from torch.func import functional_call

from opad_core.bases.loading import load_base
from opad_core.errors import OpadError
from opad_core.generation.bundle import read_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.custom_diffusion import CustomDiffusionConfig
from opad_core.methods.kv_preservation import other_words
from opad_core.methods.train import new_training, train
from opad_core.random_streams import stream
from opad_core.training.loop import TrainingStopped
from tests.opad_core.algorithm_1 import Networks, TextAttention

SHORT = CustomDiffusionConfig(
    iterations=3, batch_size=2, class_images=3, templates=("a photo of a {}",), class_prompt="a photo of a {}",
    size_words=False, lr=1e-3, lr_token=1e-2,
)  # fmt: skip


def learn(base, references, config, *, stop_after=None, resume=None):
    steps = []
    data = train(
        base, references, "dog", config, seed=1, resume=resume, report=steps.append,
        should_stop=lambda: stop_after is not None and len(steps) >= stop_after,
    )  # fmt: skip
    return data, steps


def test_the_published_setting_is_the_default():
    c = CustomDiffusionConfig()
    assert (c.iterations, c.batch_size, c.lr, c.lr_token) == (250, 8, 8e-5, 8e-5)
    assert (c.class_images, c.lambda_prior, c.timestep_range) == (200, 1.0, (0.0, 1.0))


@pytest.mark.parametrize("lambda_prior", [0.0, 0.5])
def test_an_iteration_is_equation_1_with_prior_preservation(base, references, lambda_prior):
    config = dataclasses.replace(SHORT, lambda_prior=lambda_prior)
    training = new_training(base, references, "dog", config, seed=3)
    method, nets = training.method, Networks(base)
    adapter = method.adapter
    weights = [p.detach().double().requires_grad_() for p in adapter.projections.parameters()]
    row = adapter.token_row.detach().double().requires_grad_()
    layers = adapter.projections.layers
    names = [f"{layer}.to_{x}.weight" for x in "kv" for layer in layers]
    losses = training.iterate()

    unet = copy.deepcopy(base.student.unet).double()
    unet.set_attn_processor(TextAttention())
    abar = nets.abar.view(-1, 1, 1, 1)
    batches = {"references": method.batches.batch(training.data.examples, "photos", 0)}
    if lambda_prior:
        batches["class-images"] = method.class_batches.batch(method.class_images, "class-images", 0)
    expected = {}
    for name, batch in batches.items():
        z0 = nets.vae.encode(batch.pixels.double()).latent
        eps = torch.randn(z0.shape, generator=stream(3, 0, f"{name}-noise")).double()
        t = torch.randint(0, 1000, (2,), generator=stream(3, 0, f"{name}-time"))
        z_t = abar[t].sqrt() * z0 + (1 - abar[t]).sqrt() * eps
        states = nets.encode(batch.prompts, row)
        predicted = functional_call(unet, dict(zip(names, weights, strict=True)), (z_t, t, states)).sample
        mask = batch.mask.double()
        target = eps if base.student.prediction_type == "epsilon" else abar[t].sqrt() * eps - (1 - abar[t]).sqrt() * z0
        squares = (mask * (predicted - target) ** 2).sum((1, 2, 3)) / mask.sum((1, 2, 3))
        expected[name] = squares.mean()
    assert losses["rec"].item() == pytest.approx(expected["references"].item(), rel=1e-4)  # float32 against float64
    total = expected["references"]
    if lambda_prior:
        assert losses["prior"].item() == pytest.approx(expected["class-images"].item(), rel=1e-4)
        total = total + lambda_prior * expected["class-images"]
    wanted = torch.autograd.grad(total, [*weights, row])
    norm = torch.cat([g.flatten() for g in wanted]).norm()
    received = [p.grad.double() for p in (*adapter.projections.parameters(), adapter.token_row)]
    for ours, theirs in zip(received, wanted, strict=True):
        theirs = theirs * min(1.0, 1.0 / float(norm))  # the clip
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm() + 1e-9


def test_class_images_are_the_untouched_students(base, references):
    training = new_training(base, references, "dog", SHORT, seed=1)
    training.iterate()
    [first] = OneStepGenerator(base).generate([ImageRequest(None, "a photo of a dog", 0)])
    kept = training.method.state()["class_images"]
    assert kept.shape == (3, 64, 64, 3)
    # Another batch size may change a pixel by one of 256 levels.
    assert int((kept[0].int() - torch.from_numpy(first).int()).abs().max()) <= 1


def test_a_resumed_training_gives_the_same_bytes_as_an_uninterrupted_one(base, references):
    uninterrupted, _ = learn(base, references, SHORT)
    for iterations in range(3):
        with pytest.raises(TrainingStopped) as stopped:
            learn(base, references, SHORT, stop_after=iterations)
        assert learn(base, references, SHORT, resume=stopped.value.state)[0] == uninterrupted
    assert read_bundle(uninterrupted).manifest["method"] == "custom_diffusion"


def test_without_class_images_nothing_is_preserved(base, references):
    _, steps = learn(base, references, dataclasses.replace(SHORT, class_images=0))
    assert set(steps[0].losses[0]) == {"rec"}


def test_kv_preservation_holds_other_words(base, references):
    def change(weight):
        config = dataclasses.replace(SHORT, lambda_kv_preservation=weight, lr=1e-2)
        training = new_training(base, references, "dog", config, seed=1)
        for _ in range(4):
            training.iterate()
        method = training.method
        words = other_words(base, "dog")
        keys = [k for k, _ in method.adapter.projections(words[None]).values()]
        before = [k for k, _ in base.student.keys_values(words[None]).values()]
        return sum((a - b).detach().square().mean().item() for a, b in zip(keys, before, strict=True))

    assert change(100.0) < 0.7 * change(0.0)


def test_half_precision_scales_the_loss_of_what_learns_through_it(base, references):
    """Without a loss scale it would be 1."""
    half = load_base(str(base.folder), device="cpu", precision="half")
    training = new_training(half, references, "dog", dataclasses.replace(SHORT, class_images=0), seed=1)
    training.iterate()
    assert training.method.optimizers["student"].loss_scale == 1024.0


def test_invalid_settings_are_refused():
    with pytest.raises(OpadError, match="class_images must be at least 0, got -1"):
        CustomDiffusionConfig(class_images=-1)
    with pytest.raises(OpadError, match=r"timestep_range must be two increasing numbers in \[0, 1\]"):
        CustomDiffusionConfig(timestep_range=(0.5, 0.5))
