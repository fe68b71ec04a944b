import pytest
import torch
from torch import nn

from opad_core.bases.loading import load_base
from opad_core.errors import DivergedError
from opad_core.methods.opad.config import preset
from opad_core.methods.train import new_training, train
from opad_core.training.config import override
from opad_core.training.method import Step
from opad_core.training.optimizer import Optimizer


def test_half_precision_learns_what_single_precision_learns(base, references):
    """The loss is so small that its gradient, unscaled, underflows in float16."""
    weak = {
        "lambda_mse": 1e-3,
        "lambda_id": 0.0,
        "lambda_swd": 0.0,
        "lambda_adv": (0.0, 0.0, 0.0),
        "lambda_kv_preservation": 0.0,
    }
    gradients = []
    for precision in ("float32", "half"):
        at = load_base(str(base.folder), device="cpu", precision=precision)
        training = new_training(at, references, "dog", override(preset("default", at.manifest.presets), weak), seed=1)
        method = training.method
        inputs = method.draw(Step(0, 1, lambda: None))
        _, total, _ = method.student_losses(inputs, *method.student_prompts(inputs))
        method.optimizers["student"].step(total)
        gradients.append(torch.cat([p.grad.flatten() for p in method.student.projections.parameters()]))
    single, half = gradients
    # The difference is rounding to float16 and, in the teacher, to bfloat16.
    assert torch.cosine_similarity(single, half, dim=0) > 0.99
    assert half.norm() == pytest.approx(float(single.norm()), rel=0.05)


def half(base):
    return load_base(str(base.folder), device="cpu", precision="half")


def short_config(base):
    """Return a short training, because half precision takes a CPU ten times as long."""
    changes = {
        "iterations": 3,
        "collaborative_iterations": 0,
        "batch_size": 1,
        "scene_share": 0.0,
        "augmentation_cache": 2,
    }
    return override(preset("default", base.manifest.presets), changes)


def test_a_gradient_that_overflows_skips_a_step_and_halves_the_loss_scale(base, references, monkeypatch):
    scale = 2.0**40  # the loss is near 1, and float16 ends at 2^16
    monkeypatch.setattr("opad_core.training.optimizer.FIRST_SCALE", scale)
    at = half(base)
    training = new_training(at, references, "dog", short_config(at), seed=1)
    optimizer = training.method.optimizers["student"]
    start = [p.detach().clone() for p in optimizer.parameters]
    losses = training.iterate()
    assert all(torch.equal(p, s) for p, s in zip(optimizer.parameters, start, strict=True))
    assert all(loss.isfinite() for loss in losses.values())
    assert (optimizer.loss_scale, optimizer.overflows) == (scale / 2, 1)


def test_a_skipped_step_is_not_a_divergence(base, references):
    """One iteration generates images that are not finite, as after an overflow. Nothing is rolled back."""
    at, steps = half(base), []
    weight, broken = at.student.unet.conv_in.bias, [False, True, False, False]
    whole = weight.detach().clone()

    def before_each_iteration():
        with torch.no_grad():
            weight.copy_(torch.full_like(whole, torch.inf) if broken[len(steps)] else whole)
        return False

    train(
        at, references, "dog", short_config(at), seed=1,
        report=steps.append, should_stop=before_each_iteration,
    )  # fmt: skip
    assert [p.step for p in steps] == [1, 2, 3]
    assert set(steps[1].losses[0]) == {"rec"}
    again = new_training(at, references, "dog", short_config(at), seed=1)
    again.load(steps[-1].snapshot())
    optimizer = again.method.optimizers["student"]
    assert (again.lr_scale, optimizer.loss_scale, optimizer.overflows) == (1.0, 512.0, 0)


def test_repeated_overflows_are_a_divergence(base, references, monkeypatch):
    monkeypatch.setattr("opad_core.training.optimizer.MAX_OVERFLOWS", 2)
    at = half(base)
    with torch.no_grad():
        at.student.unet.conv_in.bias.fill_(torch.inf)
    steps = []
    with pytest.raises(DivergedError, match="2 steps in a row overflowed half precision, also at lower learning rates"):
        train(
            at, references, "dog", short_config(at), seed=1,
            report=steps.append, should_stop=lambda: False,
        )  # fmt: skip
    assert [p.step for p in steps] == [1, 1]  # rolled back once, to the start


def test_half_precision_resumes_with_its_loss_scale_bit_for_bit(base, references, monkeypatch):
    """The scale overflows at first, and doubles again after two steps."""
    monkeypatch.setattr("opad_core.training.optimizer.FIRST_SCALE", 2.0**20)
    monkeypatch.setattr("opad_core.training.optimizer.SCALE_GROWS_AFTER", 2)
    at, states = half(base), []
    config = short_config(at)

    def learn_from(state):
        training = new_training(at, references, "dog", config, seed=1)
        if state is not None:
            training.load(state)
        while training.step < config.iterations:
            states.append(training.snapshot())
            training.iterate()
        return training.snapshot().to_bytes(), training.method.optimizers["student"].loss_scale

    uninterrupted, scale = learn_from(None)
    assert scale < 2.0**20
    for state in states[1:3]:
        assert learn_from(state) == (uninterrupted, scale)


def test_a_training_in_float32_continues_in_half_precision_with_the_first_loss_scale(base, references):
    """Two hosts may differ in precision, and a job may move between them."""
    config = short_config(base)
    training = new_training(base, references, "dog", config, seed=1)
    training.iterate()
    continued = new_training(half(base), references, "dog", config, seed=1)
    continued.load(training.snapshot())
    assert continued.step == 1
    assert continued.method.optimizers["student"].loss_scale == 1024.0


@pytest.mark.parametrize("skip", [0.0, 1.0])
def test_a_step_can_be_skipped_by_a_value_on_the_device(skip):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Optimizer([([parameter], 0.1, 0.0)])
    optimizer.step(parameter.square().sum(), skip=torch.tensor(skip))
    assert torch.equal(parameter, torch.ones(3)) == bool(skip)
    optimizer.step(parameter.square().sum())
    assert not torch.equal(parameter, torch.ones(3)), "the next step was skipped, too"


def test_learning_rates_are_scaled_from_their_initial_values():
    """AdamW's first step moves a parameter by its learning rate."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = Optimizer([([parameter], 0.1, 0.0)])
    for factor in (0.25, 0.5):
        optimizer.scale_lr(factor)
    optimizer.step(parameter.sum())
    assert float(parameter.detach()) == pytest.approx(-0.05, rel=1e-4)
