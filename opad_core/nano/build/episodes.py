"""Images of new objects, from which the UNets learn while they adapt (see adapting.py).

Each scene has several backgrounds. A noise gets the one that is nearest to the unadapted student's output for the same
prompt and noise. An object has one size: from objects in three sizes, the networks learned a mean outline.
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
from opad_core.nano.build.processes import render_all
from opad_core.nano.build.stage import Build, to_unit_range
from opad_core.nano.build.tasks import random_object
from opad_core.nano.build.teacher import encode
from opad_core.nano.build.vocabulary import DRAWINGS, NOUNS, SCENES, TEMPLATES, Template
from opad_core.nano.build.world import BACKGROUNDS_ON_THE_GRID, World, cutout, upright
from opad_core.networks.denoiser import Denoiser
from opad_core.networks.text_encoder import PLACEHOLDER, TextEncoder

_SIZES = (48, 56, 32)  # of objects, in pixels of 64
_SHARES = (0.6, 0.2, 0.2)  # of these sizes
_SUPPORT_SCENES, _QUERY_SHARE = 4, 1 / 3
_PROMPTS_PER_SCENE, _PLAIN_PROMPTS = 4, 4096
_MIN_LIGHT, _MAX_LIGHT = 0.94, 1.06
_FIRST_TASK_SEED = 1_000_000
_PLAIN_TEMPLATES = [t.text for t in TEMPLATES if t == Template(t.text)]


@dataclass(frozen=True)
class EpisodeBatch:
    """One image per task, followed by images of plain prompts."""

    states: Tensor
    """Text states [b, tokens, d]."""
    pooled: Tensor
    """Pooled embeddings of the captions, for a critic, [b, d]. They name an object by its noun."""
    eps: Tensor
    """Noise [b, 80, 8, 8]."""
    z0: Tensor
    """Target latents for this noise, [b, 80, 8, 8]. For plain prompts: the output of the unadapted student."""
    is_support: Tensor
    """Whether each task is shown in one of its own scenes, [tasks]."""
    pixels: Tensor
    """Rendered images that fit the captions, [b, 3, 64, 64] in [-1, 1]."""
    real: Tensor
    """Latents of `pixels`, [b, 80, 8, 8]."""


class EpisodeSampler:
    """Samples images of objects in scenes, with noise from which the unadapted student generates those scenes.

    Objects and backgrounds are rendered, and prompts are encoded, in advance. They stay on the device, and `sample`
    composes images from these layers.
    """

    def __init__(self, build: Build, text: TextEncoder, vae: AutoencoderDC, student: Denoiser, *, tasks: int) -> None:
        """Prepare `tasks` tasks, the total over the whole stage."""
        self._vae, self._student, device = vae, student, torch.get_default_device()
        self._projections = pretrained_projections(student).requires_grad_(False)
        self._border = torch.zeros(LATENT_SIZE, LATENT_SIZE)
        self._border[0], self._border[:6, 0], self._border[:6, -1] = 1, 1, 1  # no object covers these

        world = World(partial(build.drawing, build.folder))
        backgrounds = [[np.asarray(world.background(s, n)) for n in range(BACKGROUNDS_ON_THE_GRID)] for s in SCENES]
        pixels = to_unit_range(np.array(backgrounds).reshape(-1, *backgrounds[0][0].shape)).to(device)
        self._backgrounds = pixels.unflatten(0, (len(SCENES), -1))
        self._background_latents = encode(vae, pixels).unflatten(0, (len(SCENES), -1))
        self._is_floating = torch.tensor([scene == "water" for scene in SCENES])

        layers, nouns = _render_objects(build, tasks)
        self._layers, self._nouns = layers.to(device), nouns.to(device)
        rng = np.random.default_rng([build.seed, 9])
        support_scenes = [rng.choice(len(SCENES), _SUPPORT_SCENES, replace=False) for _ in range(tasks)]
        self._support_scenes = torch.tensor(np.stack(support_scenes), device=device)
        task_prompts = [_prompt(rng, scene) for _ in NOUNS for scene in SCENES for _ in range(_PROMPTS_PER_SCENE)]
        names = [noun for noun in NOUNS for _ in range(len(SCENES) * _PROMPTS_PER_SCENE)]
        rows = {noun: text.embedding_of(noun) for noun in NOUNS}
        self._images = build.on_grid()
        captions = self._images.captions
        self._captioned = rng.integers(len(captions), size=_PLAIN_PROMPTS)
        plain = [captions[index] for index in self._captioned]
        self._task_states = _encoded(
            text, [prompt.format(PLACEHOLDER) for prompt in task_prompts], names, [rows[name] for name in names]
        )
        self._plain_states = _encoded(text, plain)
        self._task_pooled = text.pooled_embedding(
            [prompt.format(noun) for prompt, noun in zip(task_prompts, names, strict=True)]
        )
        self._plain_pooled = text.pooled_embedding(plain)

    @torch.no_grad()
    def sample(self, task_ids: Tensor, plain: int, generator: torch.Generator) -> EpisodeBatch:
        """Return one image for each of these tasks, and `plain` images of plain captions."""
        tasks = len(task_ids)
        is_support = torch.rand(tasks, generator=generator) >= _QUERY_SHARE
        at = torch.randint(_SUPPORT_SCENES, (tasks, 1), generator=generator)
        anywhere = torch.randint(len(SCENES), (tasks,), generator=generator)
        scenes = torch.where(is_support, self._support_scenes[task_ids].gather(1, at)[:, 0], anywhere)
        prompts = (self._nouns[task_ids] * len(SCENES) + scenes) * _PROMPTS_PER_SCENE
        prompts += torch.randint(_PROMPTS_PER_SCENE, (tasks,), generator=generator)
        others = torch.randint(len(self._plain_states), (plain,), generator=generator)
        states = torch.cat([self._task_states[prompts], self._plain_states[others]])
        eps = torch.randn((len(states), *self._student.latent_shape), generator=generator)
        z0 = self._student.one_step(eps, self._projections(states))
        distances = (self._background_latents[scenes] - z0[:tasks, None]).square() * self._border
        backgrounds = self._backgrounds[scenes, distances.sum((2, 3, 4)).argmin(1)]
        layers = self._layers[task_ids] / 255
        light = _MIN_LIGHT + (_MAX_LIGHT - _MIN_LIGHT) * torch.rand(tasks, 1, 1, 1, generator=generator)
        shadow = layers[:, 4:] * ~self._is_floating[scenes][:, None, None, None]
        shaded = (backgrounds + 1) * (1 - shadow) - 1
        lit = (2 * layers[:, :3] * light).clamp(max=2) - 1
        captioned = self._images.batch(self._captioned[others.cpu().numpy()])
        pixels = torch.cat([torch.lerp(shaded, lit, layers[:, 3:4]), captioned])
        real = encode(self._vae, pixels)
        z0[:tasks] = real[:tasks]
        pooled = torch.cat([self._task_pooled[prompts], self._plain_pooled[others]])
        return EpisodeBatch(states, pooled, eps, z0, is_support, pixels, real)


def _render_objects(build: Build, count: int) -> tuple[Tensor, Tensor]:
    """Return layers [count, 5, 64, 64] uint8 (see `cutout`), and the index in NOUNS of each object's noun."""
    build.drawing(build.folder, DRAWINGS[NOUNS[0]][0])  # fetches all drawings once, before several processes ask
    rendered = list(render_all(_render_object, range(count), partial(build.drawing, build.folder), label="objects"))
    return torch.from_numpy(np.stack([layers for layers, _ in rendered])), torch.tensor([noun for _, noun in rendered])


def _render_object(world: World, number: int) -> tuple[NDArray[np.uint8], int]:
    image, noun = random_object(lambda name: world.sprite(name, ""), _FIRST_TASK_SEED + number)
    size = int(np.random.default_rng([number, 1]).choice(_SIZES, p=_SHARES))
    return cutout(image, upright(size)), NOUNS.index(noun)


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
    """Return a random prompt for the scene, with a place for the noun."""
    template = str(rng.choice(_PLAIN_TEMPLATES)) if rng.random() < 0.6 else "a {}"
    return f"{template} {rng.choice(SCENES[scene].phrases)}"
