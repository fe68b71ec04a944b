"""Generate and score the images of a run: scenes that no photo and no prompt of the training showed."""

from collections.abc import Mapping, Sequence
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

SEEDS_ASKED = range(FIRST_SEED, FIRST_SEED + SEEDS)
MIDDLE = 52 / 64
"""Share of an image's side that the second identity score compares. On nano the middle tells two photos of one object
from two objects with the same noun better than the whole image does."""


def student_scenes(base: Base, bundle: Bundle | None, concept: Concept, *, steps: int) -> Images:
    """Generate the report card's images in a number of steps, with the untouched student if there is no bundle."""

    return student_prompts(base, bundle, concept, _scenes(base, concept), steps=steps)


def teacher_scenes(base: Base, bundle: Bundle, concept: Concept) -> Images:
    """Generate the report card's images with the teacher, as the paper does: 25 steps with guidance 7.5."""
    return teacher_prompts(base, bundle, _scenes(base, concept))


def student_prompts(
    base: Base, bundle: Bundle | None, concept: Concept, prompts: Sequence[str], *, steps: int
) -> Images:
    """Generate images of prompts, each with one `{}` for the concept, with every seed."""
    name = concept.class_noun if bundle is None else PLACEHOLDER

    def generate(prompt: str) -> NDArray[np.uint8]:
        if steps > 1:
            return student_images(base, bundle, prompt, SEEDS_ASKED, steps=steps)
        return OneStepGenerator(base).generate([ImageRequest(bundle, prompt, seed) for seed in SEEDS_ASKED])

    return np.stack([generate(prompt.format(name)) for prompt in prompts])


def teacher_prompts(base: Base, bundle: Bundle, prompts: Sequence[str]) -> Images:
    """Generate images of prompts with the teacher, 25 steps with guidance 7.5."""
    return np.stack([teacher_images(base, bundle, prompt.format(PLACEHOLDER), SEEDS_ASKED) for prompt in prompts])


def _scenes(base: Base, concept: Concept) -> list[str]:
    return report_scenes(base, concept.references, concept.class_noun)


def scored(base: Base, images: Images, concept: Concept) -> dict[str, float | None]:
    """Return the scores of images, rounded. Only nano's scenes have a judge that takes no part in training."""
    scenes, judge = _scenes(base, concept), load_judge()
    scores = unrounded(base, images, concept, scenes)
    judged = judge.knows(scenes, resolution=base.manifest.resolution)
    scores["judged_scenes"] = judge.accuracy(images, scenes) if judged else None
    return rounded(scores)


def unrounded(base: Base, images: Images, concept: Concept, prompts: Sequence[str]) -> dict[str, float | None]:
    """Return the report card's scores of images of the base's scene prompts, and the identity of their middles."""
    network, references = load_embedding(), reference_pictures(base, concept.references)
    plain = [text.format(concept.class_noun) for text in prompts]
    scores = asdict(scores_of(base, network, images, references, plain, concept.class_noun))
    mine, theirs = (embed(middle(x), network) for x in (images.reshape(-1, *images.shape[2:]), references))
    return scores | {"middle_identity": float((mine @ theirs.T).mean())}


def rounded(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in scores.items()}


def middle(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle of images [n, r, r, 3]."""
    side = images.shape[1]
    edge = round(side * (1 - MIDDLE) / 2)
    return np.ascontiguousarray(images[:, edge : side - edge, edge : side - edge])
