"""Stages `adapt_student` and `adapt_teacher`: the UNets learn to take up new things through keys and values alone.

That is all that a concept may change (decision 1), and a network that was only ever trained with its own keys and
values has little to say through others: of a poodle, a whole training left a grey cloud. Here some things are learned
at any time, each by keys and values of its own, by the rates of the presets and from captions that name a scene; after
`INNER` steps the thing gives way to the next. The rest of the UNet, shared by all, learns from every one of these
steps what makes such learning easy: first-order meta-learning (Finn et al. 2017; for weights that a task leaves alone,
Raghu et al. 2020), one step of the shared weights for each of the things' own. Plain prompts beside them are drawn as
the network drew them before.

Each thing has one size and few scenes, as it has in the photos of a concept. Every third picture shows it elsewhere,
and from that one only the shared weights learn: that what was learned in few scenes holds in all. See episodes.py.

This is also where the student is distilled adversarially, as SD-Turbo was (Sauer et al. 2023): a critic reads all that
it draws, things and plain prompts, and the teacher gives its denoised opinion on the latter.
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
from opad_core.nano.build.episodes import Lesson, Lessons
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
from opad_core.networks.schedule import add_noise, training_target
from opad_core.networks.text_encoder import TextEncoder
from opad_core.pixels import to_uint8

Role = Literal["student", "teacher"]

INNER = 90
_LEARNING_RATE = 2e-4
_MOST_GRADIENT = 10.0  # of sixteen things
OWN_RATES: dict[Role, float] = {"student": 3e-3, "teacher": 6e-3}
_KEPT = 3.0  # weight of the plain prompts
_ADVERSARIAL = 0.05
_DISTILLATION = 0.2
_CRITICS_RATE, _SLOPE = 4e-4, 0.05


class Learners:
    """Keys and values of some things at once, each with an Adam of its own that starts when the thing comes."""

    def __init__(self, start: KeyValueProjections, *, things: int, rate: float) -> None:
        self._layers, self._rate, self._things = start.layers, rate, things
        self._shared = [x.detach() for pair in zip(start.to_k, start.to_v, strict=True) for x in pair]
        self._start = torch.cat([x.flatten() for x in self._shared])
        self._own = self._start.repeat(things, 1).requires_grad_()
        self._mean, self._square = torch.zeros_like(self._own), torch.zeros_like(self._own)
        self.ages = torch.arange(things) * INNER // things
        self.numbers = torch.arange(things)

    def __call__(self, states: Tensor) -> KeysValues:
        """Keys and values for text states [things + n, tokens, d]: the first each by its own, others by the start."""
        projected = []
        parts = self._own.split([x.numel() for x in self._shared], 1)
        for own, start in zip(parts, self._shared, strict=True):
            learned = states[: self._things] @ own.unflatten(1, start.shape).transpose(1, 2)
            learned = torch.cat([learned[:, :1].detach(), learned[:, 1:]], 1)
            projected.append(torch.cat([learned, states[self._things :] @ start.T]))
        pairs = zip(projected[::2], projected[1::2], strict=True)
        return dict(zip(self._layers, pairs, strict=True))

    @torch.no_grad()
    def step(self, learning: Tensor) -> None:
        """Adam's step for those that are `learning` [things], each by its own age, which counts such steps; whoever is
        through gives way to the next thing."""
        assert self._own.grad is not None
        age, share = (self.ages + 1.0).view(-1, 1), learning.float().view(-1, 1)
        self._mean.lerp_(self._own.grad, 0.1 * share)
        self._square.lerp_(self._own.grad.square(), 0.001 * share)
        moved = (self._mean / (1 - 0.9**age)) / ((self._square / (1 - 0.999**age)).sqrt() + 1e-8)
        self._own -= self._rate * share * moved
        self._own.grad = None
        self.ages = self.ages + learning
        goes_on = self.ages < INNER
        kept = goes_on.view(-1, 1)
        self._own.copy_(torch.where(kept, self._own, self._start))
        self._mean *= kept
        self._square *= kept
        self.ages = self.ages * goes_on
        self.numbers = self.numbers + self._things * ~goes_on

    def state_dict(self) -> dict[str, Any]:
        return {
            "own": self._own,
            "mean": self._mean,
            "square": self._square,
            "ages": self.ages,
            "numbers": self.numbers,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, mine in (("own", self._own), ("mean", self._mean), ("square", self._square)):
            mine.copy_(state[name])
        self.ages, self.numbers = state["ages"], state["numbers"]


class Adapting:
    """One of the two networks while it adapts, with the things' own keys and values."""

    def __init__(self, build: Build, role: Role, load: Callable[[Build], UNet2DConditionModel]) -> None:
        self._build, self._role = build, role
        self.before, self.adapted = denoiser(load(build)), denoiser(load(build))
        self._total, self.things = build.counts["adapt_steps"], build.counts["things"]
        self._plain = self.things // 2
        self._vae = load_vae(build)
        text = TextEncoder(world_tokenizer(), load_text_encoder(build))
        in_all = self.things * (2 + self._total // INNER)
        self._lessons = Lessons(build, text, self._vae, denoiser(load_student(build)), things=in_all)
        own = {f"{layer}.{name}.weight" for layer in self.adapted.layers for name in ("to_k", "to_v")}
        named = self.adapted.unet.named_parameters()
        self._weights = [weight.requires_grad_(True) for name, weight in named if name not in own]
        self.start = pretrained_projections(self.before).requires_grad_(False)
        self.learners = Learners(self.start, things=self.things, rate=OWN_RATES[role])
        self._average = Average(self.adapted.unet, 0.998)
        self._rate = build.rate(_LEARNING_RATE, of="things")
        self._optimizer = AdamW(self._weights, lr=self._rate, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
        self.shown: dict[str, float | Tensor] = {}

    def steps(self, others: dict[str, Stateful]) -> Iterator[tuple[int, Lesson, torch.Generator]]:
        """The lessons still to come; `others` is state beside the network's."""
        stage, total = f"adapt_{self._role}", self._total
        state: dict[str, Stateful] = {
            "unet": self.adapted.unet, "average": self._average, "optimizer": self._optimizer,
            "learners": self.learners, **others,
        }  # fmt: skip
        for step in self._build.steps(stage, total, state, self.shown):
            fall = max(1.25 * (total - step) / total, 0.03)
            self._optimizer.param_groups[0]["lr"] = self._rate * min(1, (step + 1) / 50, fall)
            generator = self._build.generator(stage, step)
            lesson = self._lessons.draw(self.learners.numbers, self._plain, generator)
            yield step, lesson, generator
            if self._build.shows(step, total):
                _write_sheet(self._build, stage, self._vae, lesson, self.adapted, self.learners(lesson.states))

    def learn(self, lesson: Lesson, errors: Tensor, others: Tensor | float = 0.0) -> None:
        """One step of the shared weights and, of things at home, each one's own, from errors and other losses [b].

        A sum over things: each one's keys and values see their own, whatever their number.
        """
        things, plain = self.things, self._plain
        weights = torch.cat([torch.ones(things), torch.full((plain,), _KEPT * things / plain)])
        self._optimizer.zero_grad(set_to_none=True)
        (weights * (errors + others)).sum().backward()
        nn.utils.clip_grad_norm_(self._weights, _MOST_GRADIENT * things / 16)
        self._optimizer.step()
        of_things, kept = errors.detach().split([things, plain])
        ages = self.learners.ages
        for name, which in (("home", lesson.at_home), ("elsewhere", ~lesson.at_home)):
            old = which & (ages >= INNER // 2)
            smoothed(self.shown, name, (of_things * old).sum() / old.sum().clamp(min=1))
        smoothed(self.shown, "kept", kept.mean())
        self.learners.step(lesson.at_home)
        self._average.update(self.adapted.unet)


def adapt_teacher(build: Build) -> None:
    """`adapt_steps` of denoising, from what stage `teacher` made."""
    torch.manual_seed(build.seed + 9)
    adapting = Adapting(build, "teacher", load_teacher)
    for _, lesson, generator in adapting.steps({}):
        adapting.learn(lesson, _teacher_errors(adapting, lesson, generator))


def adapt_student(build: Build) -> None:
    """`adapt_steps` under a critic's eyes and with the adapted teacher's opinion, from what stage `coding` made."""
    torch.manual_seed(build.seed + 9)
    adapting = Adapting(build, "student", load_student)
    things = adapting.things
    teacher = denoiser(load_adapted(build, "teacher"))
    teachers_own = pretrained_projections(teacher).requires_grad_(False)
    critic = Critic()
    optimizer = Adam(critic.parameters(), lr=build.rate(_CRITICS_RATE, of="things"), betas=(0.0, 0.99))
    for step, lesson, generator in adapting.steps({"critic": critic, "critics_optimizer": optimizer}):
        drawn = adapting.adapted.one_step(lesson.eps, adapting.learners(lesson.states))
        loss = critic.loss(lesson.real, drawn, lesson.summaries, penalty=_SLOPE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        smoothed(adapting.shown, "critic", loss)
        fooled = -critic(drawn, lesson.summaries).mean(1)
        others = min(1.0, step / 100) * _ADVERSARIAL * fooled
        with torch.no_grad():
            keys_values = teachers_own(lesson.states[things:])
        opinion = _distance_to_teacher(teacher, drawn[things:], keys_values, generator)
        smoothed(adapting.shown, "teacher", opinion.mean())
        others = others + torch.cat([torch.zeros(things), _DISTILLATION * opinion])
        adapting.learn(lesson, (drawn - lesson.z0).square().mean((1, 2, 3)), others)


def _distance_to_teacher(
    teacher: Denoiser, z0_student: Tensor, keys_values: KeysValues, generator: torch.Generator
) -> Tensor:
    """ADD's distillation term [b]: noise the student's latents, denoise with the teacher, compare."""
    t = torch.randint(200, 900, (len(z0_student),), generator=generator)
    noise = torch.randn(z0_student.shape, generator=generator)
    with torch.no_grad():
        z0_teacher = teacher.denoise(add_noise(z0_student, noise, t, teacher.abar), t, keys_values)
    return (z0_student - z0_teacher).square().mean((1, 2, 3)) * teacher.abar[t]


def _teacher_errors(adapting: Adapting, lesson: Lesson, generator: torch.Generator) -> Tensor:
    """Of v [b]. Half of the things' noise is independent, as L_rec's is; plain prompts should give what they gave."""
    adapted, before, z0, things = adapting.adapted, adapting.before, lesson.z0, adapting.things
    late = torch.rand(len(z0), generator=generator) < 0.7
    low = torch.where(late, 0.5, 0.0)
    t = ((low + (1 - low) * torch.rand(len(z0), generator=generator)) * len(adapted.abar)).long()
    independent = torch.rand(len(z0), generator=generator) < 0.5
    independent[things:] = False
    noise = torch.where(
        independent[:, None, None, None], torch.randn(z0.shape, generator=generator), lesson.eps
    )  # fmt: skip
    z_t = add_noise(z0, noise, t, adapted.abar)
    target = training_target(z0, noise, t, adapted.abar, adapted.prediction_type)
    with torch.no_grad():
        target[things:] = before.predict(z_t[things:], t[things:], adapting.start(lesson.states[things:]))
    return (adapted.predict(z_t, t, adapting.learners(lesson.states)) - target).square().mean((1, 2, 3))


def denoiser(unet: UNet2DConditionModel) -> Denoiser:
    return Denoiser(unet, cumulative_alphas(), "v_prediction")


def load_adapted(build: Build, role: Role) -> UNet2DConditionModel:
    """The averaged network, frozen."""
    average = Average(build_unet(), 0.0)
    build.load(f"adapt_{role}", "average", average)
    return averaged_unet(average)


@torch.no_grad()
def _write_sheet(
    build: Build, stage: str, vae: AutoencoderDC, lesson: Lesson, adapted: Denoiser, learned: KeysValues
) -> None:  # fmt: skip
    """What was to be drawn, and what the network makes of it in one step."""
    z0, drawn = lesson.z0, adapted.one_step(lesson.eps, learned)
    shown = torch.cat([torch.arange(16), torch.arange(len(z0))[-8:]])[: len(z0)]
    rows = [to_uint8(decode(vae, z[shown])) for z in (z0, drawn)]
    write_sheet(build.folder / f"{stage}.png", np.stack(rows), scale=3)
