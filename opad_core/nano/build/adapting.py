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
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import AdamW

from opad_core.concept import PLACEHOLDER, Denoiser, KeysValues, KeyValueProjections, TextSide
from opad_core.nano.build.architecture import LATENT_SIZE, build_unet
from opad_core.nano.build.autoencoder import load_vae
from opad_core.nano.build.features import world_tokenizer
from opad_core.nano.build.processes import draw_all
from opad_core.nano.build.stage import Average, Build, Stateful, smoothed, to_pixels, to_unit_range, write_sheet
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
from opad_core.nano.build.vocabulary import COLOURS, DRAWINGS, NOUNS, SCENES, TEMPLATES, Template, with_article
from opad_core.nano.build.world import BACKGROUNDS_ON_THE_GRID, World, cutout
from opad_core.schedule import add_noise, training_target

Role = Literal["student", "teacher"]

_INNER = 90
_LEARNING_RATE = 2e-4
_MOST_GRADIENT = 10.0  # of sixteen things
_OWN_RATES: dict[Role, float] = {"student": 3e-3, "teacher": 6e-3}
_KEPT = 3.0  # weight of the plain prompts
_SIZES = (48, 56, 32)  # of things, pixels of 64
_SHARES = torch.tensor([0.6, 0.2, 0.2])  # of these sizes
_PROMPTS_OF_A_NOUN, _PLAIN_PROMPTS = 64, 4096
_LEAST_LIGHT, _MOST_LIGHT = 0.94, 1.06
_FIRST_THING = 1_000_000
_PLAIN_TEMPLATES = [t.text for t in TEMPLATES if t == Template(t.text)]
_PHRASES = [(scene, phrase) for scene, entry in SCENES.items() for phrase in entry.phrases]


class Learners:
    """Keys and values of some things at once, each with an Adam of its own that starts when the thing comes."""

    def __init__(self, start: KeyValueProjections, *, things: int, rate: float) -> None:
        self._layers, self._rate, self._things = start.layers, rate, things
        self._shared = [x.detach() for pair in zip(start.to_k, start.to_v, strict=True) for x in pair]
        self._start = torch.cat([x.flatten() for x in self._shared])
        self._own = self._start.repeat(things, 1).requires_grad_()
        self._mean, self._square = torch.zeros_like(self._own), torch.zeros_like(self._own)
        self.ages = torch.arange(things) * _INNER // things
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
    def step(self) -> None:
        """Adam's step for each by its own age; whoever is through gives way to the next thing."""
        assert self._own.grad is not None
        age = (self.ages + 1.0).view(-1, 1)
        self._mean.lerp_(self._own.grad, 0.1)
        self._square.lerp_(self._own.grad.square(), 0.001)
        self._own -= self._rate * (self._mean / (1 - 0.9**age)) / ((self._square / (1 - 0.999**age)).sqrt() + 1e-8)
        self._own.grad = None
        goes_on = self.ages + 1 < _INNER
        kept = goes_on.view(-1, 1)
        self._own.copy_(torch.where(kept, self._own, self._start))
        self._mean *= kept
        self._square *= kept
        self.ages = (self.ages + 1) * goes_on
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


class Lessons:
    """Pictures of things in scenes, with the noise that the unadapted student would draw those scenes from.

    Everything is drawn and said beforehand and kept on the device; a lesson is put together from layers.
    """

    def __init__(self, build: Build, text: TextSide, vae: AutoencoderDC, student: Denoiser, *, things: int) -> None:
        """`things` is how many there will be in all."""
        self._vae, self._student, device = vae, student, torch.get_default_device()
        self._projections = student.new_projections().requires_grad_(False)
        self._border = torch.zeros(LATENT_SIZE, LATENT_SIZE)
        self._border[0], self._border[:6, 0], self._border[:6, -1] = 1, 1, 1  # nothing stands before the ground there

        world = World(partial(build.drawing, build.folder))
        grounds = [[np.asarray(world.background(s, n)) for n in range(BACKGROUNDS_ON_THE_GRID)] for s in SCENES]
        pixels = to_unit_range(np.array(grounds).reshape(-1, *grounds[0][0].shape)).to(device)
        self._grounds = pixels.unflatten(0, (len(SCENES), -1))
        self._ground_latents = encode(vae, pixels).unflatten(0, (len(SCENES), -1))
        self._floats = torch.tensor([scene == "water" for scene in SCENES])

        layers, nouns = _draw_things(build, things)
        self._layers, self._nouns = layers.to(device), nouns.to(device)
        rng = np.random.default_rng([build.seed, 9])
        said = [_prompt(rng) for _ in range(len(NOUNS) * _PROMPTS_OF_A_NOUN)]
        names = [noun for noun in NOUNS for _ in range(_PROMPTS_OF_A_NOUN)]
        rows = {noun: text.embedding_of(noun) for noun in NOUNS}
        prompts = [prompt.format(PLACEHOLDER) for prompt, _ in said]
        self._said = _encoded(text, prompts, names, [rows[name] for name in names])
        self._scenes = torch.tensor([scene for _, scene in said])
        self._plain = _encoded(text, [_plain_prompt(rng) for _ in range(_PLAIN_PROMPTS)])

    @torch.no_grad()
    def draw(self, numbers: Tensor, plain: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Text states [b, tokens, d], noise and latents [b, 80, 8, 8]: of these things, then of `plain` prompts."""
        things = len(numbers)
        prompts = self._nouns[numbers] * _PROMPTS_OF_A_NOUN
        prompts += torch.randint(_PROMPTS_OF_A_NOUN, (things,), generator=generator)
        others = torch.randint(len(self._plain), (plain,), generator=generator)
        states = torch.cat([self._said[prompts], self._plain[others]])
        eps = torch.randn((len(states), *self._student.latent_shape), generator=generator)
        z0 = self._student.one_step(eps, self._projections(states))
        scenes = self._scenes[prompts]
        distances = (self._ground_latents[scenes] - z0[:things, None]).square() * self._border
        grounds = self._grounds[scenes, distances.sum((2, 3, 4)).argmin(1)]
        sizes = torch.multinomial(_SHARES.to(eps.device), things, replacement=True, generator=generator)
        layers = self._layers[numbers, sizes] / 255
        light = _LEAST_LIGHT + (_MOST_LIGHT - _LEAST_LIGHT) * torch.rand(things, 1, 1, 1, generator=generator)
        shadow = layers[:, 4:] * ~self._floats[scenes][:, None, None, None]
        shaded = (grounds + 1) * (1 - shadow) - 1
        lit = (2 * layers[:, :3] * light).clamp(max=2) - 1
        z0[:things] = encode(self._vae, torch.lerp(shaded, lit, layers[:, 3:4]))
        return states, eps, z0


def _draw_things(build: Build, count: int) -> tuple[Tensor, Tensor]:
    """Layers [count, sizes, 5, 64, 64] uint8, see `cutout`, and the place of their nouns in NOUNS."""
    build.drawing(build.folder, DRAWINGS[NOUNS[0]][0])  # fetched once, before several processes ask for them
    drawn = list(draw_all(_draw_thing, range(count), partial(build.drawing, build.folder), label="things"))
    return torch.from_numpy(np.stack([layers for layers, _ in drawn])), torch.tensor([noun for _, noun in drawn])


def _draw_thing(world: World, number: int) -> tuple[NDArray[np.uint8], int]:
    picture, noun = random_thing(lambda name: world.sprite(name, ""), _FIRST_THING + number)
    return np.stack([cutout(picture, size) for size in _SIZES]), NOUNS.index(noun)


@torch.no_grad()
def _encoded(
    text: TextSide, prompts: list[str], nouns: list[str] | None = None, rows: list[Tensor] | None = None
) -> Tensor:
    parts = []
    for at in range(0, len(prompts), 512):
        part = prompts[at : at + 512]
        named = nouns[at : at + 512] if nouns else [""] * len(part)
        parts.append(text.encode(part, named, [*rows[at : at + 512]] if rows else [None] * len(part)))
    return torch.cat(parts)


def _prompt(rng: np.random.Generator) -> tuple[str, int]:
    """Around any noun, with the place of its scene in SCENES."""
    scene, phrase = _PHRASES[rng.integers(len(_PHRASES))]
    template = str(rng.choice(_PLAIN_TEMPLATES)) if rng.random() < 0.6 else "a {}"
    return f"{template} {phrase}", list(SCENES).index(scene)


def _plain_prompt(rng: np.random.Generator) -> str:
    _, phrase = _PHRASES[rng.integers(len(_PHRASES))]
    colour = f"{rng.choice(list(COLOURS))} " if rng.random() < 0.25 else ""
    template = str(rng.choice(_PLAIN_TEMPLATES)) if rng.random() < 0.4 else "a {}"
    return with_article(f"{template.format(colour + str(rng.choice(NOUNS)))} {phrase}")


def train_adapting(build: Build, role: Role) -> None:
    """`adapt_steps` of one of the two networks, from what its own stage made of it."""
    torch.manual_seed(build.seed + 9)
    vae, text = load_vae(build), TextSide(world_tokenizer(), load_text_encoder(build))
    load = load_student if role == "student" else load_teacher
    before, adapted = _denoiser(load(build)), _denoiser(load(build))
    total, things = build.counts["adapt_steps"], build.counts["things"]
    plain = things // 2
    in_all = things * (2 + total // _INNER)
    lessons = Lessons(build, text, vae, _denoiser(load_student(build)), things=in_all)
    own = {f"{layer}.{name}.weight" for layer in adapted.layers for name in ("to_k", "to_v")}
    weights = [weight.requires_grad_(True) for name, weight in adapted.unet.named_parameters() if name not in own]
    start = before.new_projections().requires_grad_(False)
    learners, average = Learners(start, things=things, rate=_OWN_RATES[role]), Average(adapted.unet, 0.998)
    rate = build.rate(_LEARNING_RATE, of="things")
    optimizer = AdamW(weights, lr=rate, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
    shown: dict[str, float | Tensor] = {}
    stage = f"adapt_{role}"
    state: dict[str, Stateful] = {
        "unet": adapted.unet, "average": average, "optimizer": optimizer, "learners": learners,
    }  # fmt: skip
    for step in build.steps(stage, total, state, shown):
        fall = max(1.25 * (total - step) / total, 0.03)
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 50, fall)
        generator = build.generator(stage, step)
        states, eps, z0 = lessons.draw(learners.numbers, plain, generator)
        if role == "student":
            errors = (adapted.one_step(eps, learners(states)) - z0).square().mean((1, 2, 3))
        else:
            errors = _teacher_errors(adapted, before, learners(states), start(states[things:]), eps, z0, generator)
        # A sum over things: each one's keys and values see their own error, whatever their number.
        of_things, kept = errors.split([things, plain])
        loss = of_things.sum() + _KEPT * things * kept.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, _MOST_GRADIENT * things / 16)
        optimizer.step()
        new, old = (learners.ages < 3).float(), (learners.ages >= _INNER - 3).float()
        for name, which in (("begin", new), ("end", old)):
            smoothed(shown, name, (of_things * which).sum() / which.sum().clamp(min=1))
        smoothed(shown, "kept", kept.mean())
        learners.step()
        average.update(adapted.unet)
        if build.shows(step, total):
            _write_sheet(build, stage, vae, z0, adapted, learners(states), eps)


def _teacher_errors(
    adapted: Denoiser, before: Denoiser, learned: KeysValues, plain: KeysValues, eps: Tensor, z0: Tensor,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Of v [b]. Half of the things' noise is independent, as L_rec's is; plain prompts should give what they gave.

    `learned` are the keys and values of all, `plain` those of the plain prompts before anything was learned.
    """
    late = torch.rand(len(z0), generator=generator) < 0.7
    low = torch.where(late, 0.5, 0.0)
    t = ((low + (1 - low) * torch.rand(len(z0), generator=generator)) * len(adapted.abar)).long()
    things = len(z0) - len(plain[adapted.layers[0]][0])
    independent = torch.rand(len(z0), generator=generator) < 0.5
    independent[things:] = False
    noise = torch.where(independent[:, None, None, None], torch.randn(eps.shape, generator=generator), eps)
    z_t = add_noise(z0, noise, t, adapted.abar)
    target = training_target(z0, noise, t, adapted.abar, adapted.prediction_type)
    with torch.no_grad():
        target[things:] = before.predict(z_t[things:], t[things:], plain)
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
    build: Build, stage: str, vae: AutoencoderDC, z0: Tensor, adapted: Denoiser, learned: KeysValues, eps: Tensor
) -> None:  # fmt: skip
    """What was to be drawn, and what the network makes of it in one step."""
    drawn = adapted.one_step(eps, learned)
    shown = torch.cat([torch.arange(16), torch.arange(len(z0))[-8:]])[: len(z0)]
    rows = [to_pixels(decode(vae, z[shown])) for z in (z0, drawn)]
    write_sheet(build.folder / f"{stage}.png", np.stack(rows), scale=3)
