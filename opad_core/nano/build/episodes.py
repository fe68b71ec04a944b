"""Pictures from which new things are learned while the UNets adapt, see adapting.py.

Which ground belongs to which noise is the student's choice: it is the drawing of the scene that comes nearest to what
it drew for this prompt and noise before. A thing has one size: where it had any, its outline was learned as the mean of
three.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers import AutoencoderDC
from numpy.typing import NDArray
from torch import Tensor

from opad_core.adapters.key_value import pretrained_projections
from opad_core.nano.build.architecture import LATENT_SIZE
from opad_core.nano.build.processes import draw_all
from opad_core.nano.build.stage import Build, to_unit_range
from opad_core.nano.build.tasks import random_thing
from opad_core.nano.build.teacher import encode
from opad_core.nano.build.vocabulary import DRAWINGS, NOUNS, SCENES, TEMPLATES, Template
from opad_core.nano.build.world import BACKGROUNDS_ON_THE_GRID, World, cutout, upright
from opad_core.networks.denoiser import Denoiser
from opad_core.networks.text_encoder import PLACEHOLDER, TextEncoder

_SIZES = (48, 56, 32)  # of things, pixels of 64
_SHARES = (0.6, 0.2, 0.2)  # of these sizes
_OWN_SCENES, _ELSEWHERE = 4, 1 / 3
_PROMPTS_OF_A_SCENE, _PLAIN_PROMPTS = 4, 4096
_LEAST_LIGHT, _MOST_LIGHT = 0.94, 1.06
_FIRST_THING = 1_000_000
_PLAIN_TEMPLATES = [t.text for t in TEMPLATES if t == Template(t.text)]


@dataclass(frozen=True)
class Lesson:
    """Of some things, then of plain prompts."""

    states: Tensor
    """What the text encoder says, [b, tokens, d]."""
    summaries: Tensor
    """Of the captions, for a critic, [b, d]; a thing is called by its noun."""
    eps: Tensor
    """Noise [b, 80, 8, 8]."""
    z0: Tensor
    """What should be drawn from it, [b, 80, 8, 8]: of plain prompts, what the unadapted student draws."""
    at_home: Tensor
    """Which things are shown in scenes of their own, [things]."""
    pixels: Tensor
    """Pictures of the world that fit the captions, [b, 3, 64, 64] in [-1, 1]."""
    real: Tensor
    """The same as latents, [b, 80, 8, 8]."""


class Lessons:
    """Pictures of things in scenes, with the noise that the unadapted student would draw those scenes from.

    Everything is drawn and said beforehand and kept on the device; a lesson is put together from layers.
    """

    def __init__(self, build: Build, text: TextEncoder, vae: AutoencoderDC, student: Denoiser, *, things: int) -> None:
        """`things` is how many there will be in all."""
        self._vae, self._student, device = vae, student, torch.get_default_device()
        self._projections = pretrained_projections(student).requires_grad_(False)
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
        homes = [rng.choice(len(SCENES), _OWN_SCENES, replace=False) for _ in range(things)]
        self._homes = torch.tensor(np.stack(homes), device=device)
        said = [_prompt(rng, scene) for _ in NOUNS for scene in SCENES for _ in range(_PROMPTS_OF_A_SCENE)]
        names = [noun for noun in NOUNS for _ in range(len(SCENES) * _PROMPTS_OF_A_SCENE)]
        rows = {noun: text.embedding_of(noun) for noun in NOUNS}
        self._pictures = build.on_grid()
        captions = self._pictures.captions
        self._captioned = rng.integers(len(captions), size=_PLAIN_PROMPTS)
        plain = [captions[index] for index in self._captioned]
        self._said = _encoded(
            text, [prompt.format(PLACEHOLDER) for prompt in said], names, [rows[name] for name in names]
        )
        self._plain = _encoded(text, plain)
        self._said_in_short = text.pooled_embedding(
            [prompt.format(noun) for prompt, noun in zip(said, names, strict=True)]
        )
        self._plain_in_short = text.pooled_embedding(plain)

    @torch.no_grad()
    def draw(self, numbers: Tensor, plain: int, generator: torch.Generator) -> Lesson:
        """Of these things and of `plain` captions."""
        things = len(numbers)
        at_home = torch.rand(things, generator=generator) >= _ELSEWHERE
        at = torch.randint(_OWN_SCENES, (things, 1), generator=generator)
        anywhere = torch.randint(len(SCENES), (things,), generator=generator)
        scenes = torch.where(at_home, self._homes[numbers].gather(1, at)[:, 0], anywhere)
        prompts = (self._nouns[numbers] * len(SCENES) + scenes) * _PROMPTS_OF_A_SCENE
        prompts += torch.randint(_PROMPTS_OF_A_SCENE, (things,), generator=generator)
        others = torch.randint(len(self._plain), (plain,), generator=generator)
        states = torch.cat([self._said[prompts], self._plain[others]])
        eps = torch.randn((len(states), *self._student.latent_shape), generator=generator)
        z0 = self._student.one_step(eps, self._projections(states))
        distances = (self._ground_latents[scenes] - z0[:things, None]).square() * self._border
        grounds = self._grounds[scenes, distances.sum((2, 3, 4)).argmin(1)]
        layers = self._layers[numbers] / 255
        light = _LEAST_LIGHT + (_MOST_LIGHT - _LEAST_LIGHT) * torch.rand(things, 1, 1, 1, generator=generator)
        shadow = layers[:, 4:] * ~self._floats[scenes][:, None, None, None]
        shaded = (grounds + 1) * (1 - shadow) - 1
        lit = (2 * layers[:, :3] * light).clamp(max=2) - 1
        captioned = self._pictures.batch(self._captioned[others.cpu().numpy()])
        pixels = torch.cat([torch.lerp(shaded, lit, layers[:, 3:4]), captioned])
        real = encode(self._vae, pixels)
        z0[:things] = real[:things]
        summaries = torch.cat([self._said_in_short[prompts], self._plain_in_short[others]])
        return Lesson(states, summaries, eps, z0, at_home, pixels, real)


def _draw_things(build: Build, count: int) -> tuple[Tensor, Tensor]:
    """Layers [count, 5, 64, 64] uint8, see `cutout`, and the place of their nouns in NOUNS."""
    build.drawing(build.folder, DRAWINGS[NOUNS[0]][0])  # fetched once, before several processes ask for them
    drawn = list(draw_all(_draw_thing, range(count), partial(build.drawing, build.folder), label="things"))
    return torch.from_numpy(np.stack([layers for layers, _ in drawn])), torch.tensor([noun for _, noun in drawn])


def _draw_thing(world: World, number: int) -> tuple[NDArray[np.uint8], int]:
    picture, noun = random_thing(lambda name: world.sprite(name, ""), _FIRST_THING + number)
    size = int(np.random.default_rng([number, 1]).choice(_SIZES, p=_SHARES))
    return cutout(picture, upright(size)), NOUNS.index(noun)


@torch.no_grad()
def _encoded(
    text: TextEncoder, prompts: list[str], nouns: list[str] | None = None, rows: list[Tensor] | None = None
) -> Tensor:
    parts = []
    for at in range(0, len(prompts), 512):
        part = prompts[at : at + 512]
        named = nouns[at : at + 512] if nouns else [""] * len(part)
        parts.append(text.encode(part, named, [*rows[at : at + 512]] if rows else [None] * len(part)))
    return torch.cat(parts)


def _prompt(rng: np.random.Generator, scene: str) -> str:
    """Around any noun."""
    template = str(rng.choice(_PLAIN_TEMPLATES)) if rng.random() < 0.6 else "a {}"
    return f"{template} {rng.choice(SCENES[scene].phrases)}"
