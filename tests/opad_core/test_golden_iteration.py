"""Compare iterations of the method with a plain, slow Algorithm 1 of the paper's supplement in float64.

The slow one uses the code under test only through `Run` and the names of random streams.
"""

import pytest
import torch
from torch import nn

from opad_core.bases.loading import load_base
from opad_core.methods.opad.config import ABLATIONS, ablated, preset
from opad_core.methods.train import new_training
from opad_core.training.config import override
from tests.opad_core.algorithm_1 import Networks, algorithm_1, descended
from tests.random_base import SHORT

AGREE = 2e-4
"""Relative tolerance. The code computes in float32, and the one step multiplies rounding errors by 14.6."""
MEASURED = {
    # Large enough that a trained network differs from an untrained one by more than the tolerance.
    "lr_student": 1e-3, "lr_teacher": 1e-2, "lr_token": 1e-2, "lr_discriminator": 1e-3,
    # Its gradient is a sum of signs of sorted pairs. float32 flips some near ties, which changes it by 5e-4. With this
    # weight it is a hundredth of the student's gradient, so the whole agrees and a missing part would be noticed.
    "lambda_swd": 1e-3,
    "iterations": 2, "collaborative_iterations": 2,
}  # fmt: skip
STAGES = 2 + 2
"""Iterations of both stages."""


class Run:
    """A training under test, with the inputs and results of its iterations."""

    def __init__(self, base, references, config, seed):
        self.base, self.config, self.seed = base, config, seed
        self.training = new_training(base, references, "dog", config, seed=seed)

    @property
    def step(self):
        return self.training.step

    def parameters(self):
        method = self.training.method
        heads = {f"d_{d.name}": list(d.head.parameters()) for d in method.discriminators}
        return {
            "teacher": list(method.teacher.projections.parameters()), "token": [method.teacher.token_row],
            "student": list(method.student.projections.parameters()), **heads,
        }  # fmt: skip

    def moments(self, name):
        optimizer = self.training.method.optimizers["teacher" if name == "token" else name]
        moments = []
        for parameter in self.parameters()[name]:
            (place,) = (i for i, other in enumerate(optimizer.parameters) if other is parameter)
            tensors = optimizer.tensors()
            kept = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{place}.{key}" in tensors]
            moments.append({key: tensors[f"{place}.{key}"].clone() for key in kept})
        return moments

    def averages(self):
        """Return the averaged projections and V*, in the order of `parameters`."""
        average = self.training.average
        return [x.clone().double() for x in (*average.projections.parameters(), average.token_row)]

    def layers(self):
        return self.training.method.student.projections.layers

    def start_row(self):
        lookups = {"entry": self.base.text.entry_of, "word": self.base.text.embedding_of}
        return lookups[self.config.initializer_lookup]("dog").double()

    def other_words(self):
        return self.training.method.other_words.double()

    def views(self, name, *, canvas=True):
        """Return this step's batch of a stream: samples for "samples" and "real-samples", else references."""
        return self.training.method.batches.of(name, self.step, canvas=canvas)

    def teacher_samples(self):
        """Return prompts, noise and latents of the teacher's samples in this step."""
        return self.training.method.teacher_samples.batch(self.step)

    def go_to(self, step):
        self.training.step = step

    def iterate(self):
        """Run an iteration and return its losses. Gradients stay in the parameters."""
        for parameters in self.parameters().values():
            for parameter in parameters:
                parameter.grad = None
        return {name: loss.double().item() for name, loss in self.training.iterate().items()}


def joined(tensors):
    return torch.cat([x.detach().double().flatten() for x in tensors])


def assert_iterations_agree(run, nets, iterations):
    """Compare each iteration with one of Algorithm 1 from the same state."""
    c = run.config
    rates = {"teacher": c.lr_teacher, "token": c.lr_token, "student": c.lr_student}
    total = c.iterations * (1 + c.teacher_first) + c.collaborative_iterations
    for step in range(iterations):
        averages = run.averages()
        before = {name: [p.detach().clone().double() for p in ps] for name, ps in run.parameters().items()}
        moments = {name: run.moments(name) for name in before}
        losses = run.iterate()
        after = run.parameters()
        run.go_to(step)
        expected = algorithm_1(run, nets, before, [p.detach().double() for p in after["teacher"]])
        run.go_to(step + 1)

        assert losses == pytest.approx(expected.losses, rel=AGREE), f"losses at step {step}"
        decayed = min(1.0, (total - step) / total / c.lr_decay) if c.lr_decay else 1.0
        for name, parameters in after.items():
            wanted = expected.gradients.get(name)
            if wanted is None:
                assert torch.equal(joined(parameters), joined(before[name])), f"{name} moved at step {step}"
                continue
            received = [p.grad.double() for p in parameters]
            error = (joined(received) - joined(wanted)).norm() / joined(wanted).norm()
            assert error < AGREE, f"{name} received another gradient at step {step}, by {error:.1e}"
            lr = decayed * rates.get(name, c.lr_discriminator)
            decay = c.token_weight_decay if name == "token" else c.weight_decay
            # Uses the received gradients: Adam's first step takes the sign even of a gradient that is only rounding.
            moved = descended(before[name], received, moments[name], lr=lr, decay=decay)
            torch.testing.assert_close(joined(parameters), joined(moved), atol=2e-6, rtol=2e-6)  # float32 at about 1
        if "student" in expected.gradients:
            share = min(c.ema_decay, (1 + step) / (10 + step))
            now = [*after["student"], *(after["token"] if c.shared_text_encoder else [run.start_row()])]
            wanted = [share * a + (1 - share) * p.detach().double() for a, p in zip(averages, now, strict=True)]
            torch.testing.assert_close(joined(run.averages()), joined(wanted), atol=2e-6, rtol=2e-6)


def assert_agrees(base, references, config, nets, *, seed, iterations):
    """Compare a training with Algorithm 1, and one of another seed if they differ.

    A ReLU of a discriminator's head whose input is nearly 0 is on in float32 and off in float64, which is 2e-3 of the
    gradient. On some CPUs one of the seeds here has one. A fault of the method differs with every seed.
    """
    try:
        assert_iterations_agree(Run(base, references, config, seed), nets, iterations)
    except AssertionError:
        assert_iterations_agree(Run(base, references, config, seed + 100), nets, iterations)


@pytest.fixture(scope="module")
def base(base):
    """A base with SiLU as the decoder's last activation.

    Of 130,000 ReLUs, one or two are so near 0 that float32 and float64 differ, and each is 3e-3 of the gradient.
    """
    smooth = load_base(str(base.folder), device="cpu")
    assert isinstance(smooth.vae.decoder.conv_act, nn.ReLU)
    smooth.vae.decoder.conv_act = nn.SiLU()
    return smooth


@pytest.fixture(scope="module")
def nets(base):
    return Networks(base)


def published(base):
    return override(preset("paper", base.manifest.presets), MEASURED)


def ours(base):
    return override(preset("default", base.manifest.presets), MEASURED)


def at_full_size(base):
    """Return `default` for a base whose manifest sets nothing, with short stages and high learning rates."""
    return override(preset("default", {}), SHORT | MEASURED)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("of", [published, ours, at_full_size])
def test_both_stages_of_each_preset_are_algorithm_1(base, nets, references, of, seed):
    assert_agrees(base, references, of(base), nets, seed=seed, iterations=STAGES)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"collaboration": "gated"}, id="gated, real images on the canvas"),
        pytest.param({"max_target_timestep": 0.5}, id="late timesteps have no target"),
        pytest.param({"decode_crop": 0.5}, id="a random crop is decoded"),
        pytest.param({"real_label": 0.9}, id="smoothed labels"),
        pytest.param(
            {"lr_decay": 0.8, "guidance": 1.0, "target_weight": "uniform"}, id="learning rates fall, no guidance"
        ),
        pytest.param(
            {"lambda_kv_preservation": 0.5, "ema_decay": 0.9, "clip_norm": 0.01},
            id="preservation, average, short steps",
        ),
        pytest.param(
            {"teacher_timestep_range": (0.4, 1.0), "target_timestep_range": (0.6, 1.0)}, id="timesteps of a share"
        ),
    ],
)
def test_a_switch_does_what_it_says(base, nets, references, changes):
    config = override(published(base), changes)
    assert_agrees(base, references, config, nets, seed=5, iterations=STAGES)


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != "one-shot"])
def test_an_ablation_removes_its_part_from_the_gradient(base, nets, references, name):
    config = override(ablated(published(base), name), {"collaborative_iterations": 0})
    assert_agrees(base, references, config, nets, seed=4, iterations=config.distillation_iterations)
