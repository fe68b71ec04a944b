"""Generate and score the images of a run: scenes that no photo and no prompt of the training showed."""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from opad_core.bases.captions import report_scenes
from opad_core.bases.loading import Base
from opad_core.evaluation.embedding import embed, load_embedding
from opad_core.evaluation.report import FIRST_SEED, SEEDS, reference_pictures, scores_of
from opad_core.generation.bundle import Bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.generation.many_step import student_images, teacher_images
from opad_core.nano.judge import load_judge
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.tables.concepts import Concept

Images = NDArray[np.uint8]
"""[prompts, seeds, r, r, 3]"""

MIDDLE = 52 / 64
"""Share of an image's side that the second identity score compares. On nano the middle tells two photos of one object
from two objects with the same noun better than the whole image does."""


def student_scenes(base: Base, bundle: Bundle | None, concept: Concept, *, steps: int) -> Images:
    """Generate the report card's images in a number of steps, with the untouched student if there is no bundle."""

    def generate(prompt: str, seeds: list[int]) -> NDArray[np.uint8]:
        if steps > 1:
            return student_images(base, bundle, prompt, seeds, steps=steps)
        return OneStepGenerator(base).generate([ImageRequest(bundle, prompt, seed) for seed in seeds])

    return _scenes(base, concept, concept.class_noun if bundle is None else PLACEHOLDER, generate)


def teacher_scenes(base: Base, bundle: Bundle, concept: Concept) -> Images:
    """Generate the report card's images with the teacher, as the paper does: 25 steps with guidance 7.5."""
    return _scenes(base, concept, PLACEHOLDER, lambda prompt, seeds: teacher_images(base, bundle, prompt, seeds))


def _scenes(base: Base, concept: Concept, name: str, generate: Callable[[str, list[int]], NDArray[np.uint8]]) -> Images:
    seeds = list(range(FIRST_SEED, FIRST_SEED + SEEDS))
    scenes = report_scenes(base, concept.references, concept.class_noun)
    return np.stack([generate(scene.format(name), seeds) for scene in scenes])


def scored(base: Base, images: Images, concept: Concept) -> dict[str, float | None]:
    """Return the scores of images, rounded. Only nano's scenes have a judge that takes no part in training."""
    network, references = load_embedding(), reference_pictures(base, concept.references)
    scenes = report_scenes(base, concept.references, concept.class_noun)
    plain = [text.format(concept.class_noun) for text in scenes]
    scores = asdict(scores_of(base, network, images, references, plain, concept.class_noun))
    mine, theirs = (embed(middle(x), network) for x in (images.reshape(-1, *images.shape[2:]), references))
    scores["middle_identity"] = float((mine @ theirs.T).mean())
    judge = load_judge()
    judged = judge.knows(scenes, resolution=base.manifest.resolution)
    scores["judged_scenes"] = judge.accuracy(images, scenes) if judged else None
    return {name: None if value is None else round(value, 4) for name, value in scores.items()}


def middle(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle of images [n, r, r, 3]."""
    side = images.shape[1]
    edge = round(side * (1 - MIDDLE) / 2)
    return np.ascontiguousarray(images[:, edge : side - edge, edge : side - edge])
