"""Stages `adapt_student` and `adapt_teacher`: the UNets learn to learn new objects through keys and values alone.

A concept changes nothing but keys and values (decision 1). A network that was only trained with its own keys and values
can express little through others: after a whole training on a poodle, it generated a gray cloud.

The method is first-order meta-learning (Finn et al. 2017; Raghu et al. 2020 for weights that no task changes). A task
is one new object. Each task trains its own keys and values, with the learning rates of the presets and captions that
name a scene. After `INNER_STEPS` steps a new task takes its place. All tasks share the rest of the UNet, which takes
one step for each step of the tasks. Each batch also has plain prompts, for which the network should generate the same
as before.

An object has one size and a few scenes, like the references of a concept. These images are the support set. A third of
the images show it in any scene. These query images train the shared weights alone, so that an object learned in few
scenes can be generated in all of them. See episodes.py.

The student is also distilled adversarially here, like SD-Turbo (Sauer et al. 2023). A critic scores all its outputs. On
plain prompts, the teacher adds a distillation loss.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderDC, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from opad_core.adapters.key_value import KeyValueProjections, pretrained_projections
from opad_core.nano.build.architecture import build_unet
from opad_core.nano.build.autoencoder import load_vae
from opad_core.nano.build.critic import Critic
from opad_core.nano.build.episodes import EpisodeBatch, EpisodeSampler
from opad_core.nano.build.features import world_tokenizer
from opad_core.nano.build.stage import Average, Build, Stateful, smoothed, write_sheet
from opad_core.nano.build.student import load_student
from opad_core.nano.build.teacher import (
    averaged_unet,
    cumulative_alphas,
    decode,
    load_teacher,
    load_text_encoder,
)
from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.schedule import T_MAX, add_noise, training_target
from opad_core.networks.text_encoder import TextEncoder
from opad_core.pixels import to_uint8

Role = Literal["student", "teacher"]

INNER_STEPS = 90
_LEARNING_RATE = 2e-4
_MAX_GRADIENT_NORM = 10.0  # for sixteen tasks
TASK_LEARNING_RATES: dict[Role, float] = {"student": 3e-3, "teacher": 6e-3}
_PLAIN_WEIGHT = 3.0  # of plain prompts in the loss
_ADVERSARIAL_WEIGHT = 0.05
_DISTILLATION_WEIGHT = 0.2
_CRITIC_LEARNING_RATE, _R1_WEIGHT = 4e-4, 0.05


class TaskProjections:
    """The keys and values of several tasks at once. Each task has its own Adam state, reset when the task starts."""

    def __init__(self, start: KeyValueProjections, *, tasks: int, lr: float) -> None:
        self._layers, self._lr, self._tasks = start.layers, lr, tasks
        self._shared = [x.detach() for pair in zip(start.to_k, start.to_v, strict=True) for x in pair]
        self._start = torch.cat([x.flatten() for x in self._shared])
        self._own = self._start.repeat(tasks, 1).requires_grad_()
        self._mean, self._square = torch.zeros_like(self._own), torch.zeros_like(self._own)
        self.inner_steps = torch.arange(tasks) * INNER_STEPS // tasks
        self.task_ids = torch.arange(tasks)

    def __call__(self, states: Tensor) -> KeysValues:
        """Return keys and values for text states [tasks + n, tokens, d].

        The first `tasks` rows use the tasks' own projections, the others the pretrained ones. The first token of a task
        passes no gradient.
        """
        projected = []
        parts = self._own.split([x.numel() for x in self._shared], 1)
        for own, start in zip(parts, self._shared, strict=True):
            learned = states[: self._tasks] @ own.unflatten(1, start.shape).transpose(1, 2)
            learned = torch.cat([learned[:, :1].detach(), learned[:, 1:]], 1)
            projected.append(torch.cat([learned, states[self._tasks :] @ start.T]))
        pairs = zip(projected[::2], projected[1::2], strict=True)
        return dict(zip(self._layers, pairs, strict=True))

    @torch.no_grad()
    def step(self, learning: Tensor) -> None:
        """Take one Adam step for the tasks marked in `learning` [tasks], then replace finished tasks by new ones."""
        assert self._own.grad is not None
        count, mask = (self.inner_steps + 1.0).view(-1, 1), learning.float().view(-1, 1)
        self._mean.lerp_(self._own.grad, 0.1 * mask)
        self._square.lerp_(self._own.grad.square(), 0.001 * mask)
        update = (self._mean / (1 - 0.9**count)) / ((self._square / (1 - 0.999**count)).sqrt() + 1e-8)
        self._own -= self._lr * mask * update
        self._own.grad = None
        self.inner_steps = self.inner_steps + learning
        unfinished = self.inner_steps < INNER_STEPS
        kept = unfinished.view(-1, 1)
        self._own.copy_(torch.where(kept, self._own, self._start))
        self._mean *= kept
        self._square *= kept
        self.inner_steps = self.inner_steps * unfinished
        self.task_ids = self.task_ids + self._tasks * ~unfinished

    def state_dict(self) -> dict[str, Any]:
        # Saved checkpoints contain these keys.
        return {
            "own": self._own,
            "mean": self._mean,
            "square": self._square,
            "ages": self.inner_steps,
            "numbers": self.task_ids,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, tensor in (("own", self._own), ("mean", self._mean), ("square", self._square)):
            tensor.copy_(state[name])
        self.inner_steps, self.task_ids = state["ages"], state["numbers"]


class Adaptation:
    """The adaptation of one network: its shared weights, the tasks' keys and values, and their optimizers."""

    def __init__(self, build: Build, role: Role, load: Callable[[Build], UNet2DConditionModel]) -> None:
        self._build, self._role = build, role
        self.before, self.adapted = denoiser(load(build)), denoiser(load(build))
        self._total, self.tasks = build.counts["adapt_steps"], build.counts["tasks"]
        self._plain = self.tasks // 2
        self._vae = load_vae(build)
        text = TextEncoder(world_tokenizer(), load_text_encoder(build))
        total_tasks = self.tasks * (2 + self._total // INNER_STEPS)
        self._sampler = EpisodeSampler(build, text, self._vae, denoiser(load_student(build)), tasks=total_tasks)
        own = {f"{layer}.{name}.weight" for layer in self.adapted.layers for name in ("to_k", "to_v")}
        named = self.adapted.unet.named_parameters()
        self._weights = [weight.requires_grad_(True) for name, weight in named if name not in own]
        self.start = pretrained_projections(self.before).requires_grad_(False)
        self.task_projections = TaskProjections(self.start, tasks=self.tasks, lr=TASK_LEARNING_RATES[role])
        self._average = Average(self.adapted.unet, 0.998)
        self._lr = build.scaled_lr(_LEARNING_RATE, of="tasks")
        self._optimizer = AdamW(self._weights, lr=self._lr, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
        self.metrics: dict[str, float | Tensor] = {}

    def steps(self, other_state: dict[str, Stateful]) -> Iterator[tuple[int, EpisodeBatch, torch.Generator]]:
        """Yield each remaining step with its batch. `other_state` is also saved in the checkpoint."""
        stage, total = f"adapt_{self._role}", self._total
        state: dict[str, Stateful] = {
            "unet": self.adapted.unet, "average": self._average, "optimizer": self._optimizer,
            "learners": self.task_projections, **other_state,
        }  # fmt: skip
        for step in self._build.steps(stage, total, state, self.metrics):
            fall = max(1.25 * (total - step) / total, 0.03)
            self._optimizer.param_groups[0]["lr"] = self._lr * min(1, (step + 1) / 50, fall)
            generator = self._build.generator(stage, step)
            episodes = self._sampler.sample(self.task_projections.task_ids, self._plain, generator)
            yield step, episodes, generator
            if self._build.is_sheet_due(step, total):
                keys_values = self.task_projections(episodes.states)
                _write_sheet(self._build, stage, self._vae, episodes, self.adapted, keys_values)

    def learn(self, episodes: EpisodeBatch, errors: Tensor, other_losses: Tensor | float = 0.0) -> None:
        """Take one step of the shared weights, and of the keys and values of each task that shows a support image.

        `errors` and `other_losses` are [b]. They are summed over tasks, so that the step of one task does not depend on
        the number of tasks.
        """
        tasks, plain = self.tasks, self._plain
        weights = torch.cat([torch.ones(tasks), torch.full((plain,), _PLAIN_WEIGHT * tasks / plain)])
        self._optimizer.zero_grad(set_to_none=True)
        (weights * (errors + other_losses)).sum().backward()
        nn.utils.clip_grad_norm_(self._weights, _MAX_GRADIENT_NORM * tasks / 16)
        self._optimizer.step()
        task_errors, plain_errors = errors.detach().split([tasks, plain])
        inner_steps = self.task_projections.inner_steps
        for name, which in (("support", episodes.is_support), ("query", ~episodes.is_support)):
            late = which & (inner_steps >= INNER_STEPS // 2)
            smoothed(self.metrics, name, (task_errors * late).sum() / late.sum().clamp(min=1))
        smoothed(self.metrics, "plain", plain_errors.mean())
        self.task_projections.step(episodes.is_support)
        self._average.update(self.adapted.unet)


def adapt_teacher(build: Build) -> None:
    """Adapt the teacher of stage `teacher` for `adapt_steps` steps of denoising."""
    torch.manual_seed(build.seed + 9)
    adaptation = Adaptation(build, "teacher", load_teacher)
    for _, episodes, generator in adaptation.steps({}):
        adaptation.learn(episodes, _teacher_errors(adaptation, episodes, generator))


def adapt_student(build: Build) -> None:
    """Adapt the student of stage `coding` for `adapt_steps` steps, with a critic and the adapted teacher."""
    torch.manual_seed(build.seed + 9)
    adaptation = Adaptation(build, "student", load_student)
    tasks = adaptation.tasks
    teacher = denoiser(load_adapted(build, "teacher"))
    teacher_projections = pretrained_projections(teacher).requires_grad_(False)
    critic = Critic()
    optimizer = Adam(critic.parameters(), lr=build.scaled_lr(_CRITIC_LEARNING_RATE, of="tasks"), betas=(0.0, 0.99))
    for step, episodes, generator in adaptation.steps({"critic": critic, "critics_optimizer": optimizer}):
        generated = adaptation.adapted.one_step(episodes.eps, adaptation.task_projections(episodes.states))
        loss = critic.loss(episodes.real, generated, episodes.pooled, penalty=_R1_WEIGHT)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        smoothed(adaptation.metrics, "critic", loss)
        adversarial_loss = -critic(generated, episodes.pooled).mean(1)
        other_losses = min(1.0, step / 100) * _ADVERSARIAL_WEIGHT * adversarial_loss
        with torch.no_grad():
            keys_values = teacher_projections(episodes.states[tasks:])
        distillation_loss = _distance_to_teacher(teacher, generated[tasks:], keys_values, generator)
        smoothed(adaptation.metrics, "teacher", distillation_loss.mean())
        other_losses = other_losses + torch.cat([torch.zeros(tasks), _DISTILLATION_WEIGHT * distillation_loss])
        adaptation.learn(episodes, (generated - episodes.z0).square().mean((1, 2, 3)), other_losses)


def _distance_to_teacher(
    teacher: Denoiser, z0_student: Tensor, keys_values: KeysValues, generator: torch.Generator
) -> Tensor:
    """Return the distillation loss of ADD, [b]: noise the student's latents, denoise with the teacher, compare."""
    t = torch.randint(200, 900, (len(z0_student),), generator=generator)
    noise = torch.randn(z0_student.shape, generator=generator)
    with torch.no_grad():
        z0_teacher = teacher.denoise(add_noise(z0_student, noise, t, teacher.abar), t, keys_values)
    return (z0_student - z0_teacher).square().mean((1, 2, 3)) * teacher.abar[t]


def _teacher_errors(adaptation: Adaptation, episodes: EpisodeBatch, generator: torch.Generator) -> Tensor:
    """Return the squared errors of v, [b].

    Half of the tasks have independent noise, as in L_rec. The targets of plain prompts are the predictions of the
    network before its adaptation.
    """
    adapted, before, z0, tasks = adaptation.adapted, adaptation.before, episodes.z0, adaptation.tasks
    is_late = torch.rand(len(z0), generator=generator) < 0.7
    low = torch.where(is_late, 0.5, 0.0)
    t = ((low + (1 - low) * torch.rand(len(z0), generator=generator)) * len(adapted.abar)).long()
    independent = torch.rand(len(z0), generator=generator) < 0.5
    independent[tasks:] = False
    noise = torch.where(
        independent[:, None, None, None], torch.randn(z0.shape, generator=generator), episodes.eps
    )  # fmt: skip
    z_t = add_noise(z0, noise, t, adapted.abar)
    target = training_target(z0, noise, t, adapted.abar, adapted.prediction_type)
    with torch.no_grad():
        target[tasks:] = before.predict(z_t[tasks:], t[tasks:], adaptation.start(episodes.states[tasks:]))
    return (adapted.predict(z_t, t, adaptation.task_projections(episodes.states)) - target).square().mean((1, 2, 3))


def denoiser(unet: UNet2DConditionModel) -> Denoiser:
    abar = cumulative_alphas()
    return Denoiser(unet, abar, "v_prediction", first_scale=float((1 - abar[T_MAX]).sqrt()))


def load_adapted(build: Build, role: Role) -> UNet2DConditionModel:
    """Load the averaged network, frozen."""
    average = Average(build_unet(), 0.0)
    build.load(f"adapt_{role}", "average", average)
    return averaged_unet(average)


@torch.no_grad()
def _write_sheet(
    build: Build, stage: str, vae: AutoencoderDC, episodes: EpisodeBatch, adapted: Denoiser, keys_values: KeysValues
) -> None:  # fmt: skip
    """Write the targets above the images that the network generates in one step."""
    z0, generated = episodes.z0, adapted.one_step(episodes.eps, keys_values)
    selected = torch.cat([torch.arange(16), torch.arange(len(z0))[-8:]])[: len(z0)]
    rows = [to_uint8(decode(vae, z[selected])) for z in (z0, generated)]
    write_sheet(build.folder / f"{stage}.png", np.stack(rows), scale=3)
