"""The loop runs any method with any adapter: here a factor on the UNet's keys, and a method that learns it."""

import pytest
import torch
from torch import nn

from opad_core.adapters.adapter import text_states_of
from opad_core.evaluation.report import report_card
from opad_core.generation.bundle import read_bundle
from opad_core.methods.opad.config import preset
from opad_core.methods.train import new_training
from opad_core.training.config import TrainingConfig, override
from opad_core.training.data import prepare_data
from opad_core.training.loop import Training, TrainingStopped, run
from opad_core.training.method import Method
from opad_core.training.optimizer import Optimizer


class Gain(nn.Module):
    kind = "gain"

    def __init__(self, gain):
        super().__init__()
        self.gain = nn.Parameter(gain)

    @classmethod
    def from_tensors(cls, tensors):
        return cls(tensors["gain"])

    def tensors(self):
        return {"gain": self.gain.detach()}

    def expected_shapes(self, denoiser, text):
        return {"gain": torch.Size((1,))}

    def denoiser(self, frozen):
        return frozen

    def token_states(self, text, tokens):
        return text.encode_tokens(tokens, text.embedding_of("dog")[None])

    def keys_values(self, text_states, denoiser):
        return {layer: (self.gain * k, v) for layer, (k, v) in denoiser.keys_values(text_states).items()}


class Toy(Method):
    name = "toy"

    def __init__(self, data):
        self.base, self.adapter = data.base, Gain(torch.ones(1))
        self.optimizers = {"gain": Optimizer([(self.adapter.parameters(), 0.01, 0.0)])}

    def draw(self, step):
        return {"eps": torch.randn((1, *self.base.latent_shape), generator=step.stream("noise"))}

    def learn(self, inputs, part):
        text_states = text_states_of(self.adapter, self.base.text, ["a <concept>"], "dog")
        keys_values = self.adapter.keys_values(text_states, self.base.student)
        loss = self.base.student.one_step(inputs["eps"], keys_values).square().mean()
        self.optimizers["gain"].step(loss)
        return {"size": loss.detach()}


def learn(base, references, *, stop_after=None, resume=None):
    config, steps = TrainingConfig(iterations=4, ema_decay=0.5, batch_size=1), []
    data = prepare_data(base, references, "dog", config)
    training = Training(Toy(data), data, config, seed=1)
    return run(
        training, resume=resume, report=steps.append,
        should_stop=lambda: stop_after is not None and len(steps) >= stop_after,
    )  # fmt: skip


def test_a_new_method_and_adapter_are_trained_resumed_bundled_and_evaluated(base, references):
    uninterrupted = learn(base, references)
    with pytest.raises(TrainingStopped) as stopped:
        learn(base, references, stop_after=2)
    assert learn(base, references, resume=stopped.value.state) == uninterrupted

    bundle = read_bundle(uninterrupted, adapters={Gain.kind: Gain})
    assert (bundle.manifest["method"], bundle.manifest["adapter"]) == ("toy", "gain")
    assert float(bundle.adapter.gain) != 1.0
    card = report_card(bundle, base, references)
    assert card.personalised != card.untouched


@pytest.mark.parametrize(
    ("ablation", "parts"),
    [
        ({}, ["teacher", "student", "discriminators"]),
        ({"teacher_first": True}, ["teacher"]),
    ],
)
def test_a_hook_is_called_around_every_part_of_every_iteration(base, references, ablation, parts):
    calls = []

    class Hook:
        def __init__(self, part):
            self.part = part

        def __enter__(self):
            calls.append(f"{self.part} begins")

        def __exit__(self, *_):
            calls.append(f"{self.part} ends")

    config = override(preset("default", base.manifest.presets), ablation)
    training = new_training(base, references, "dog", config, seed=1, hook=Hook)
    around = [f"{part} {edge}" for part in parts for edge in ("begins", "ends")]
    for _ in range(2):
        training.iterate()
    assert calls == 2 * around
    calls.clear()
    training.step = config.distillation_iterations
    training.iterate()
    collaborative = ["samples", "teacher", "student", "discriminators"]
    assert calls == [f"{part} {edge}" for part in collaborative for edge in ("begins", "ends")]


def test_a_hook_sees_the_optimizers_step_of_its_part(base, references):
    """The teacher's weights change only in the part "teacher"."""
    states = {}

    class Hook:
        def __init__(self, part):
            self.part = part

        def __enter__(self):
            states[self.part, 0] = training.method.teacher.token_row.detach().clone()

        def __exit__(self, *_):
            states[self.part, 1] = training.method.teacher.token_row.detach().clone()

    config = preset("default", base.manifest.presets)
    training = new_training(base, references, "dog", config, seed=1, hook=Hook)
    training.iterate()
    moved = {part: not torch.equal(states[part, 0], states[part, 1]) for part, _ in states}
    assert moved == {"teacher": True, "student": False, "discriminators": False}
