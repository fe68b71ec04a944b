"""`judge`: how good a finished base is, told by networks that took no part in making it.

A classifier of the world's objects and scenes is trained here on pictures rendered for it alone and used for nothing
else. Diversity is measured with EfficientNet-Lite0 (see `opad_core.evaluation.embedding`).
"""

from functools import partial
from itertools import islice, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from opad_core.adapters.key_value import pretrained_projections
from opad_core.bases.loading import Base, load_base
from opad_core.evaluation.embedding import embed, load_embedding
from opad_core.generation.generator import ImageRequest, OneStepGenerator, noise_of
from opad_core.nano.build.architecture import RESOLUTION
from opad_core.nano.build.features import jitter
from opad_core.nano.build.stage import Build, Stateful, to_unit_range, write_sheet
from opad_core.nano.build.teacher import sample_teacher
from opad_core.nano.build.vocabulary import NOUNS, SCENE_PROMPTS, SCENES, with_article
from opad_core.nano.build.world import World
from opad_core.pixels import to_uint8

TEACHER_STEPS = 25
GUIDANCE = 3.0
_BATCH = 64
_FIRST_TRAINING_SEED = 500_000_000  # the world's pictures have seeds below
_FIRST_HELD_OUT_SEED = 900_000_000
PLACES = [scene for scene, entry in SCENES.items() for _ in entry.phrases]
"""The scenes of SCENE_PROMPTS, in their order."""


class Judge(nn.Module):
    """Pictures [b, 3, 64, 64] in [-1, 1] to scores of objects [b, nouns] and of scenes [b, scenes]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 256)
        layers: list[nn.Module] = []
        for inside, outside in pairwise(widths):
            layers += [nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
            layers += [nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.objects, self.scenes = nn.Linear(4 * widths[-1], len(NOUNS)), nn.Linear(4 * widths[-1], len(SCENES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(pictures)
        return self.objects(features), self.scenes(features)


@torch.enable_grad()
def train_judge(build: Build) -> None:
    """On `judge_steps` batches of fresh pictures, a little jittered, blurred and noised, as generated ones may be."""
    torch.manual_seed(build.seed + 6)
    judge = Judge()
    world = World(partial(build.drawing, build.folder))
    total = build.counts["judge_steps"]
    optimizer = AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = OneCycleLR(optimizer, 2e-3, total_steps=total + 1, pct_start=0.1)
    shown: dict[str, float | Tensor] = {}
    state: dict[str, Stateful] = {"judge": judge, "optimizer": optimizer, "schedule": schedule}
    for step in build.steps("judge", total, state, shown):
        pictures, objects, scenes = _labelled(world, _FIRST_TRAINING_SEED + step * _BATCH, _BATCH)
        generator = build.generator("judge", step)
        views = jitter(pictures, generator, 0.1)
        softness = torch.rand(len(views), 1, 1, 1, generator=generator)
        views = views + softness * (F.avg_pool2d(views, 3, 1, 1, count_include_pad=False) - views)
        views = views + 0.05 * torch.randn(views.shape, generator=generator)
        object_scores, scene_scores = judge(views)
        loss = F.cross_entropy(object_scores, objects, ignore_index=-1) + F.cross_entropy(scene_scores, scenes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        shown["loss"] = loss.item()


@torch.no_grad()
def judge_base(build: Build, base_name: str = "nano", *, pictures: int = 1040) -> dict[str, Any]:
    """Scores of a base over `pictures` pictures of the teacher (25 steps, guided) and as many of the student.

    The judge's own score on rendered pictures bounds the others.
    Diversity is the mean distance (1 - cosine) between five pictures of one prompt, over a prompt for each noun.
    """
    judge = load_judge(build)
    base = load_base(base_name, device="cpu")
    world = World(partial(build.drawing, build.folder))
    held_out, objects, scenes = _labelled(world, _FIRST_HELD_OUT_SEED, pictures)
    decoded = torch.cat([base.decode(base.encode(p, torch.Generator().manual_seed(0))) for p in held_out.split(_BATCH)])
    error = (decoded.clamp(-1, 1) - held_out).square().mean((1, 2, 3)) / 4
    draw = {"teacher": partial(draw_teacher, base), "student": partial(draw_student, base)}
    return {
        "judge": _accuracy(judge, held_out, objects, scenes),
        **{role: _judged(judge, drawn, pictures, build.folder / f"judged_{role}.png") for role, drawn in draw.items()},
        "vae_psnr_db": round(float((-10 * error.log10()).mean()), 2),
        "megabytes": round(sum(f.stat().st_size for f in base.folder.rglob("*") if f.is_file()) / 1e6, 1),
    }


@torch.no_grad()
def name_scenes(build: Build, pictures: NDArray[np.uint8]) -> list[str]:
    """The judge's scene for each of [n, 64, 64, 3]."""
    judge = load_judge(build)
    names = list(SCENES)
    return [names[k] for k in judge(to_unit_range(pictures))[1].argmax(1).tolist()]


def load_judge(build: Build) -> Judge:
    """Trained first unless it is trained."""
    train_judge(build)
    judge = Judge()
    build.load("judge", "judge", judge)
    return judge.eval()


def draw_student(base: Base, prompts: list[str], seeds: list[int]) -> NDArray[np.uint8]:
    """[n, 64, 64, 3] in one step."""
    generator = OneStepGenerator(base)
    return generator.generate([ImageRequest(None, p, seed) for p, seed in zip(prompts, seeds, strict=True)])


def draw_teacher(base: Base, prompts: list[str], seeds: list[int]) -> NDArray[np.uint8]:
    """[n, 64, 64, 3] in `TEACHER_STEPS` guided steps from the same noise."""
    states = base.text.encode([*prompts, ""], [""] * (len(prompts) + 1), [None] * (len(prompts) + 1))
    eps = torch.stack([noise_of(seed, base.latent_shape) for seed in seeds])
    keys_values = pretrained_projections(base.teacher)(torch.cat([states[:-1], states[-1:].expand_as(states[:-1])]))

    def predict(z: Tensor, t: int) -> Tensor:
        return base.teacher.predict(z, torch.full((len(z),), t), keys_values)

    z0 = sample_teacher(predict, eps, steps=TEACHER_STEPS, guidance=GUIDANCE)
    return to_uint8(base.decode(z0))


def _judged(judge: Judge, draw: Any, count: int, sheet: Path) -> dict[str, float]:
    cases = list(islice(_cases(), count))
    drawn = np.concatenate(
        [
            draw([prompt for prompt, _, _ in part], [seed + k for k in range(len(part))])
            for seed, part in tqdm(
                [(start, cases[start : start + _BATCH]) for start in range(0, count, _BATCH)], desc=sheet.stem
            )
        ]
    )
    write_sheet(sheet, drawn[: min(count, 96) // 16 * 16].reshape(-1, 16, RESOLUTION, RESOLUTION, 3))
    objects, scenes = (torch.tensor([case[k] for case in cases]) for k in (1, 2))
    network = load_embedding()
    distances = []
    for index, (prompt, _, _) in enumerate(cases[: max(1, min(len(NOUNS), count // 10))]):
        # Seeds of its own: what a student makes of equal noise goes one way for many prompts.
        features = embed(draw([prompt] * 5, [10_000 + 5 * index + seed for seed in range(5)]), network)
        similar = features @ features.T
        distances.append(float(1 - (similar.sum() - similar.trace()) / 20))
    scores = _accuracy(judge, to_unit_range(drawn), objects, scenes)
    return {**scores, "diversity": round(float(np.mean(distances)), 3)}


def _cases() -> Any:
    """(prompt, noun, scene), neighbours differing in both: every noun meets every scene in the end."""
    for shift, (index, noun) in product(range(len(SCENE_PROMPTS)), enumerate(NOUNS)):
        place = (index + shift) % len(SCENE_PROMPTS)
        prompt = with_article(SCENE_PROMPTS[place].format(noun))
        yield prompt, NOUNS.index(noun), list(SCENES).index(PLACES[place])


def _accuracy(judge: Judge, pictures: Tensor, objects: Tensor, scenes: Tensor) -> dict[str, float]:
    """Top-1 of both, rounded to a thousandth; pictures without an object count for the scene only."""
    scores = [judge(part) for part in pictures.split(_BATCH)]
    named = torch.cat([s[0].argmax(1) for s in scores]), torch.cat([s[1].argmax(1) for s in scores])
    shown = objects >= 0
    return {
        "object_top1": round(float((named[0] == objects)[shown].float().mean()), 3),
        "scene_top1": round(float((named[1] == scenes).float().mean()), 3),
    }


def _labelled(world: World, first_seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures with the indices of their noun (-1 without) and scene."""
    samples = [world.render(first_seed + index) for index in range(count)]
    nouns, scenes = {noun: k for k, noun in enumerate(NOUNS)}, {scene: k for k, scene in enumerate(SCENES)}
    return (
        to_unit_range(np.stack([sample.pixels for sample in samples])),
        torch.tensor([nouns.get(sample.noun, -1) for sample in samples]),
        torch.tensor([scenes[sample.scene] for sample in samples]),
    )
