"""Stages `adapt_student` and `adapt_teacher`: the UNets learn to take up new things through keys and values alone.

That is all that a concept may change (decision 1), and a network that was only ever trained with its own keys and
values has little to say through others: of a poodle, a whole training left a grey cloud. Here some things are learned
at any time, each by keys and values of its own, by the rates of the presets and from captions that name a scene; after
`_INNER` steps the thing gives way to the next. The rest of the UNet, shared by all, learns from every one of these
steps what makes such learning easy: first-order meta-learning (Finn et al. 2017; for weights that a task leaves alone,
Raghu et al. 2020), one step of the shared weights for each of the things' own. Plain prompts beside them are drawn as
the network drew them before.

Which ground belongs to which noise is the student's choice: it is the drawing of the scene that comes nearest to what
it drew for this prompt and noise before.
"""

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderDC, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim import AdamW

from opad_core.concept import PLACEHOLDER, Denoiser, KeysValues, KeyValueProjections, TextSide
from opad_core.nano.build.architecture import LATENT_SIZE, build_unet
from opad_core.nano.build.autoencoder import load_vae
from opad_core.nano.build.features import world_tokenizer
from opad_core.nano.build.stage import Average, Build, Stateful, to_pixels, to_unit_range, write_sheet
from opad_core.nano.build.student import load_student
from opad_core.nano.build.teacher import (
    averaged_unet,
    cumulative_alphas,
    decode,
    encode,
    load_teacher,
    load_text_encoder,
)
from opad_core.nano.build.things import random_thing
from opad_core.nano.build.vocabulary import COLOURS, SCENES, TAUGHT, TEMPLATES, Template, with_article
from opad_core.nano.build.world import BACKGROUNDS_ON_THE_GRID, World, place_on_grid
from opad_core.schedule import add_noise, training_target

Role = Literal["student", "teacher"]

_THINGS, _PLAIN = 16, 8  # pictures of things being learned, one of each, and of plain prompts, in a batch
_INNER = 45
_LEARNING_RATE = 2e-4
_OWN_RATES: dict[Role, float] = {"student": 3e-3, "teacher": 6e-3}
_KEPT = 3.0  # weight of the plain prompts
_SIZES = (48, 48, 48, 56, 32)  # of things, pixels of 64
_FIRST_THING = 1_000_000
_PLAIN_TEMPLATES = [t.text for t in TEMPLATES if t == Template(t.text)]
_PHRASES = [(scene, phrase) for scene, entry in SCENES.items() for phrase in entry.phrases]
_BORDER = torch.zeros(LATENT_SIZE, LATENT_SIZE)
_BORDER[0], _BORDER[:6, 0], _BORDER[:6, -1] = 1, 1, 1  # where nothing stands before the ground


class Learners:
    """Keys and values of `_THINGS` things at once, each with an Adam of its own that starts when the thing comes."""

    def __init__(self, start: KeyValueProjections, *, rate: float) -> None:
        self._layers, self._rate = start.layers, rate
        self._start = [x.detach() for pair in zip(start.to_k, start.to_v, strict=True) for x in pair]
        self._own = [torch.stack([x] * _THINGS).requires_grad_() for x in self._start]
        self._means = [torch.zeros_like(x) for x in self._own]
        self._squares = [torch.zeros_like(x) for x in self._own]
        self.ages = torch.arange(_THINGS) * _INNER // _THINGS
        self.numbers = _FIRST_THING + torch.arange(_THINGS)

    def __call__(self, states: Tensor) -> KeysValues:
        """Keys and values for text states [_THINGS + n, tokens, d]: the first each by its own, others by the start."""
        projected = []
        for own, start in zip(self._own, self._start, strict=True):
            learned = torch.einsum("bnd,bid->bni", states[:_THINGS], own)
            learned = torch.cat([learned[:, :1].detach(), learned[:, 1:]], 1)
            projected.append(torch.cat([learned, states[_THINGS:] @ start.T]))
        pairs = zip(projected[::2], projected[1::2], strict=True)
        return dict(zip(self._layers, pairs, strict=True))

    @torch.no_grad()
    def step(self) -> None:
        """Adam's step for each by its own age; whoever is through gives way to the next thing."""
        age = (self.ages + 1.0).view(-1, 1, 1)
        for own, mean, square in zip(self._own, self._means, self._squares, strict=True):
            assert own.grad is not None
            mean.lerp_(own.grad, 0.1)
            square.lerp_(own.grad.square(), 0.001)
            own -= self._rate * (mean / (1 - 0.9**age)) / ((square / (1 - 0.999**age)).sqrt() + 1e-8)
            own.grad = None
        self.ages += 1
        through = self.ages >= _INNER
        for own, start, mean, square in zip(self._own, self._start, self._means, self._squares, strict=True):
            own[through], mean[through], square[through] = start, 0, 0
        self.ages[through] = 0
        self.numbers[through] += _THINGS

    def state_dict(self) -> dict[str, Any]:
        parts = {"own": self._own, "means": self._means, "squares": self._squares}
        return {**parts, "ages": self.ages, "numbers": self.numbers}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, mine in (("own", self._own), ("means", self._means), ("squares", self._squares)):
            for x, saved in zip(mine, state[name], strict=True):
                x.copy_(saved)
        self.ages, self.numbers = state["ages"], state["numbers"]


class Lessons:
    """Pictures of things in scenes, with the noise that the unadapted student would draw those scenes from."""

    def __init__(self, build: Build, text: TextSide, vae: AutoencoderDC, student: Denoiser) -> None:
        self._world = World(partial(build.drawing, build.folder))
        self._text, self._vae, self._student = text, vae, student
        self._projections = student.new_projections().requires_grad_(False)
        self._grounds = {
            scene: encode(vae, to_unit_range(np.stack([np.asarray(picture) for picture in self._drawn(scene)])))
            for scene in SCENES
        }

    @torch.no_grad()
    def draw(self, numbers: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Text states [b, tokens, d], noise and latents [b, 48, 8, 8]: of these things, then of plain prompts."""
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        prompts, scenes = [], []
        things = [random_thing(lambda name: self._world.sprite(name, ""), number) for number in numbers]
        for _ in things:
            scene, phrase = _PHRASES[rng.integers(len(_PHRASES))]
            template = str(rng.choice(_PLAIN_TEMPLATES)) if rng.random() < 0.6 else "a {}"
            prompts.append(f"{template.format(PLACEHOLDER)} {phrase}")
            scenes.append(scene)
        nouns = [noun for _, noun in things]
        rows: list[Tensor | None] = [self._text.embedding_of(noun) for noun in nouns]
        plain = [_plain_prompt(rng) for _ in range(_PLAIN)]
        states = self._text.encode(prompts + plain, nouns + [""] * _PLAIN, rows + [None] * _PLAIN)
        eps = torch.randn((len(states), *self._student.latent_shape), generator=generator)
        z0 = self._student.one_step(eps, self._projections(states))
        pictures = []
        for drawn, scene, (sprite, _) in zip(z0, scenes, things, strict=False):
            nearest = ((self._grounds[scene] - drawn).square() * _BORDER).sum((1, 2, 3)).argmin()
            ground, size = self._drawn(scene)[int(nearest)], int(rng.choice(_SIZES))
            pictures.append(np.asarray(place_on_grid(ground, sprite, rng, size=size, floating=scene == "water")))
        z0[: len(things)] = encode(self._vae, to_unit_range(np.stack(pictures)))
        return states, eps, z0

    def _drawn(self, scene: str) -> list[Any]:
        return [self._world.background(scene, number) for number in range(BACKGROUNDS_ON_THE_GRID)]


def _plain_prompt(rng: np.random.Generator) -> str:
    _, phrase = _PHRASES[rng.integers(len(_PHRASES))]
    colour = f"{rng.choice(list(COLOURS))} " if rng.random() < 0.25 else ""
    template = str(rng.choice(_PLAIN_TEMPLATES)) if rng.random() < 0.4 else "a {}"
    return with_article(f"{template.format(colour + str(rng.choice(TAUGHT)))} {phrase}")


def train_adapting(build: Build, role: Role) -> None:
    """`adapt_steps` of one of the two networks, from what its own stage made of it."""
    torch.manual_seed(build.seed + 9)
    vae, text = load_vae(build), TextSide(world_tokenizer(build), load_text_encoder(build))
    load = load_student if role == "student" else load_teacher
    before, adapted = _denoiser(load(build)), _denoiser(load(build))
    lessons = Lessons(build, text, vae, _denoiser(load_student(build)))
    own = {f"{layer}.{name}.weight" for layer in adapted.layers for name in ("to_k", "to_v")}
    weights = [weight.requires_grad_(True) for name, weight in adapted.unet.named_parameters() if name not in own]
    start = before.new_projections().requires_grad_(False)
    learners, average = Learners(start, rate=_OWN_RATES[role]), Average(adapted.unet, 0.998)
    optimizer = AdamW(weights, lr=_LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.99))
    shown: dict[str, float] = {}
    stage, total = f"adapt_{role}", build.counts["adapt_steps"]
    state: dict[str, Stateful] = {
        "unet": adapted.unet, "average": average, "optimizer": optimizer, "learners": learners,
    }  # fmt: skip
    for step in build.steps(stage, total, state, shown):
        fall = max(1.25 * (total - step) / total, 0.03)
        optimizer.param_groups[0]["lr"] = _LEARNING_RATE * min(1, (step + 1) / 50, fall)
        generator = build.generator(stage, step)
        states, eps, z0 = lessons.draw(learners.numbers.tolist(), generator)
        if role == "student":
            errors = (adapted.one_step(eps, learners(states)) - z0).square().mean((1, 2, 3))
        else:
            errors = _teacher_errors(adapted, before, learners(states), start(states), eps, z0, generator)
        # A sum over things: each one's keys and values see their own error, whatever their number.
        loss = errors[:_THINGS].sum() + _KEPT * _THINGS * errors[_THINGS:].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        for name, ages in (("begin", learners.ages == 0), ("end", learners.ages == _INNER - 1)):
            for error in errors[:_THINGS][ages].tolist():
                shown[name] = 0.98 * shown.get(name, error) + 0.02 * error
        shown["kept"] = 0.98 * shown.get("kept", 0.0) + 0.02 * errors[_THINGS:].mean().item()
        learners.step()
        average.update(adapted.unet)
        if (step + 1) % 250 == 0 or step + 1 == total:
            _write_sheet(build, stage, vae, z0, adapted, learners, states, eps)


def _teacher_errors(
    adapted: Denoiser, before: Denoiser, learned: KeysValues, start: KeysValues, eps: Tensor, z0: Tensor,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Of v [b]. Half of the things' noise is independent, as L_rec's is; plain prompts should give what they gave."""
    late = torch.rand(len(z0), generator=generator) < 0.7
    low = torch.where(late, 0.5, 0.0)
    t = ((low + (1 - low) * torch.rand(len(z0), generator=generator)) * len(adapted.abar)).long()
    independent = torch.rand(_THINGS, generator=generator) < 0.5
    noise = torch.where(
        torch.cat([independent, torch.zeros(_PLAIN, dtype=torch.bool)])[:, None, None, None],
        torch.randn(eps.shape, generator=generator),
        eps,
    )
    z_t = add_noise(z0, noise, t, adapted.abar)
    target = training_target(z0, noise, t, adapted.abar, adapted.prediction_type)
    with torch.no_grad():
        plain = {layer: (key[_THINGS:], value[_THINGS:]) for layer, (key, value) in start.items()}
        target[_THINGS:] = before.predict(z_t[_THINGS:], t[_THINGS:], plain)
    return (adapted.predict(z_t, t, learned) - target).square().mean((1, 2, 3))


def _denoiser(unet: UNet2DConditionModel) -> Denoiser:
    return Denoiser(unet, cumulative_alphas(), "v_prediction")


def load_adapted(build: Build, role: Role) -> UNet2DConditionModel:
    """The averaged network, frozen."""
    average = Average(build_unet(), 0.0)
    build.load(f"adapt_{role}", "average", average)
    return averaged_unet(average)


@torch.no_grad()
def _write_sheet(
    build: Build, stage: str, vae: AutoencoderDC, z0: Tensor, adapted: Denoiser, learners: Learners,
    states: Tensor, eps: Tensor,
) -> None:  # fmt: skip
    """What was to be drawn, and what the network makes of it in one step."""
    drawn = adapted.one_step(eps, learners(states))
    write_sheet(build.folder / f"{stage}.png", np.stack([to_pixels(decode(vae, z)) for z in (z0, drawn)]), scale=3)
