"""`evaluate`: score a finished base with networks that took no part in training it.

The classifier of the world's objects and scenes trains on images rendered for it alone and has no other use. Diversity
is measured with EfficientNet-Lite0 (see `opad_core.evaluation.embedding`).
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

_STAGE = "judge"
"""The name of the checkpoint. It also seeds the random numbers, so another name would give another classifier."""
TEACHER_STEPS = 25
GUIDANCE = 3.0
_BATCH = 64
_FIRST_TRAINING_SEED = 500_000_000  # the world's images have seeds below
_FIRST_HELD_OUT_SEED = 900_000_000
PROMPT_SCENES = [scene for scene, entry in SCENES.items() for _ in entry.phrases]
"""The scene of each of SCENE_PROMPTS."""


class Classifier(nn.Module):
    """Scores the nouns [b, nouns] and the scenes [b, scenes] of images [b, 3, 64, 64] in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 256)
        layers: list[nn.Module] = []
        for inside, outside in pairwise(widths):
            layers += [nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
            layers += [nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.objects, self.scenes = nn.Linear(4 * widths[-1], len(NOUNS)), nn.Linear(4 * widths[-1], len(SCENES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(images)
        return self.objects(features), self.scenes(features)


@torch.enable_grad()
def train_classifier(build: Build) -> None:
    """Train the classifier for `classifier_steps`, each on newly rendered images.

    The images are slightly jittered, blurred and noised, because generated images can have such errors.
    """
    torch.manual_seed(build.seed + 6)
    classifier = Classifier()
    world = World(partial(build.drawing, build.folder))
    total = build.counts["classifier_steps"]
    optimizer = AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = OneCycleLR(optimizer, 2e-3, total_steps=total + 1, pct_start=0.1)
    metrics: dict[str, float | Tensor] = {}
    state: dict[str, Stateful] = {_STAGE: classifier, "optimizer": optimizer, "schedule": schedule}
    for step in build.steps(_STAGE, total, state, metrics):
        images, objects, scenes = _render_labeled(world, _FIRST_TRAINING_SEED + step * _BATCH, _BATCH)
        generator = build.generator(_STAGE, step)
        views = jitter(images, generator, 0.1)
        softness = torch.rand(len(views), 1, 1, 1, generator=generator)
        views = views + softness * (F.avg_pool2d(views, 3, 1, 1, count_include_pad=False) - views)
        views = views + 0.05 * torch.randn(views.shape, generator=generator)
        object_scores, scene_scores = classifier(views)
        loss = F.cross_entropy(object_scores, objects, ignore_index=-1) + F.cross_entropy(scene_scores, scenes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        metrics["loss"] = loss.item()


@torch.no_grad()
def evaluate_base(build: Build, base_name: str = "nano", *, images: int = 1040) -> dict[str, Any]:
    """Score `images` images of a base's teacher (25 steps with guidance) and as many of its student.

    The classifier's accuracy on rendered images is an upper bound. Diversity is the mean distance (1 - cosine) between
    five images of one prompt, averaged over one prompt for each noun.
    """
    classifier = load_classifier(build)
    base = load_base(base_name, device="cpu")
    world = World(partial(build.drawing, build.folder))
    held_out, objects, scenes = _render_labeled(world, _FIRST_HELD_OUT_SEED, images)
    no_noise = torch.zeros(1)  # nano's autoencoder has no posterior
    decoded = torch.cat([base.decode(base.encode(part, no_noise)) for part in held_out.split(_BATCH)])
    error = (decoded.clamp(-1, 1) - held_out).square().mean((1, 2, 3)) / 4
    generators = {"teacher": partial(generate_with_teacher, base), "student": partial(generate_with_student, base)}
    return {
        "classifier": _accuracy(classifier, held_out, objects, scenes),
        **{
            role: _score(classifier, generate, images, build.folder / f"evaluated_{role}.png")
            for role, generate in generators.items()
        },
        "vae_psnr_db": round(float((-10 * error.log10()).mean()), 2),
        "megabytes": round(sum(f.stat().st_size for f in base.folder.rglob("*") if f.is_file()) / 1e6, 1),
    }


@torch.no_grad()
def classify_scenes(build: Build, images: NDArray[np.uint8]) -> list[str]:
    """Return the scene name of each image [n, 64, 64, 3]."""
    classifier = load_classifier(build)
    names = list(SCENES)
    return [names[k] for k in classifier(to_unit_range(images))[1].argmax(1).tolist()]


def load_classifier(build: Build) -> Classifier:
    """Load the classifier. Trains it first if it is not trained yet."""
    train_classifier(build)
    classifier = Classifier()
    build.load(_STAGE, _STAGE, classifier)
    return classifier.eval()


def generate_with_student(base: Base, prompts: list[str], seeds: list[int]) -> NDArray[np.uint8]:
    """Generate images [n, 64, 64, 3] in one step."""
    generator = OneStepGenerator(base)
    return generator.generate([ImageRequest(None, p, seed) for p, seed in zip(prompts, seeds, strict=True)])


def generate_with_teacher(base: Base, prompts: list[str], seeds: list[int]) -> NDArray[np.uint8]:
    """Generate images [n, 64, 64, 3] in `TEACHER_STEPS` guided steps, from the noise that the student has."""
    states = base.text.encode([*prompts, ""], [""] * (len(prompts) + 1), [None] * (len(prompts) + 1))
    eps = torch.stack([noise_of(seed, base.latent_shape) for seed in seeds])
    keys_values = pretrained_projections(base.teacher)(torch.cat([states[:-1], states[-1:].expand_as(states[:-1])]))

    def predict(z: Tensor, t: int) -> Tensor:
        return base.teacher.predict(z, torch.full((len(z),), t), keys_values)

    z0 = sample_teacher(predict, eps, steps=TEACHER_STEPS, guidance=GUIDANCE)
    return to_uint8(base.decode(z0))


def _score(classifier: Classifier, generate: Any, count: int, sheet: Path) -> dict[str, float]:
    cases = list(islice(_labeled_prompts(), count))
    generated = np.concatenate(
        [
            generate([prompt for prompt, _, _ in part], [seed + k for k in range(len(part))])
            for seed, part in tqdm(
                [(start, cases[start : start + _BATCH]) for start in range(0, count, _BATCH)], desc=sheet.stem
            )
        ]
    )
    write_sheet(sheet, generated[: min(count, 96) // 16 * 16].reshape(-1, 16, RESOLUTION, RESOLUTION, 3))
    objects, scenes = (torch.tensor([case[k] for case in cases]) for k in (1, 2))
    network = load_embedding()
    distances = []
    for index, (prompt, _, _) in enumerate(cases[: max(1, min(len(NOUNS), count // 10))]):
        # Each prompt has other seeds, because a student's images from the same noise are alike for many prompts.
        features = embed(generate([prompt] * 5, [10_000 + 5 * index + seed for seed in range(5)]), network)
        similar = features @ features.T
        distances.append(float(1 - (similar.sum() - similar.trace()) / 20))
    scores = _accuracy(classifier, to_unit_range(generated), objects, scenes)
    return {**scores, "diversity": round(float(np.mean(distances)), 3)}


def _labeled_prompts() -> Any:
    """Yield each prompt with the indices of its noun and scene. Successive prompts differ in both."""
    for shift, (index, noun) in product(range(len(SCENE_PROMPTS)), enumerate(NOUNS)):
        which = (index + shift) % len(SCENE_PROMPTS)
        prompt = with_article(SCENE_PROMPTS[which].format(noun))
        yield prompt, NOUNS.index(noun), list(SCENES).index(PROMPT_SCENES[which])


def _accuracy(classifier: Classifier, images: Tensor, objects: Tensor, scenes: Tensor) -> dict[str, float]:
    """Return the top-1 accuracy of objects and scenes. Images without an object count for scenes only."""
    scores = [classifier(part) for part in images.split(_BATCH)]
    predicted = torch.cat([s[0].argmax(1) for s in scores]), torch.cat([s[1].argmax(1) for s in scores])
    has_object = objects >= 0
    return {
        "object_top1": round(float((predicted[0] == objects)[has_object].float().mean()), 3),
        "scene_top1": round(float((predicted[1] == scenes).float().mean()), 3),
    }


def _render_labeled(world: World, first_seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Render images and return them with the indices of their noun (-1 if they have none) and scene."""
    samples = [world.render(first_seed + index) for index in range(count)]
    nouns, scenes = {noun: k for k, noun in enumerate(NOUNS)}, {scene: k for k, scene in enumerate(SCENES)}
    return (
        to_unit_range(np.stack([sample.pixels for sample in samples])),
        torch.tensor([nouns.get(sample.noun, -1) for sample in samples]),
        torch.tensor([scenes[sample.scene] for sample in samples]),
    )
