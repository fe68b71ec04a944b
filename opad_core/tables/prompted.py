"""Generate and score the images of a run for prompts that a protocol gives, with the published metrics beside nano's.

It does what `scoring` does for scenes that no photo showed.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opad_core.bases.loading import Base
from opad_core.evaluation.embedding import embed, load_embedding
from opad_core.evaluation.published import PublishedMetrics
from opad_core.evaluation.report import FIRST_SEED, SEEDS, reference_pictures, scores_of
from opad_core.generation.bundle import Bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.generation.many_step import student_images, teacher_images
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.tables.concepts import Concept
from opad_core.tables.scoring import Images, middle

SEEDS_ASKED = range(FIRST_SEED, FIRST_SEED + SEEDS)


@dataclass(frozen=True)
class Prompted:
    """The prompts of a subject, each with one `{}`, and the networks that score its images."""

    prompts: tuple[str, ...]
    metrics: PublishedMetrics

    def student_scenes(self, base: Base, bundle: Bundle | None, concept: Concept, *, steps: int) -> Images:
        """Generate in a number of steps, with the untouched student if there is no bundle."""

        def generate(prompt: str) -> NDArray[np.uint8]:
            if steps > 1:
                return student_images(base, bundle, prompt, SEEDS_ASKED, steps=steps)
            return OneStepGenerator(base).generate([ImageRequest(bundle, prompt, seed) for seed in SEEDS_ASKED])

        return self._images(concept.class_noun if bundle is None else PLACEHOLDER, generate)

    def teacher_scenes(self, base: Base, bundle: Bundle, concept: Concept) -> Images:
        """Generate with the teacher, as the paper does: 25 steps with guidance 7.5."""
        return self._images(PLACEHOLDER, lambda prompt: teacher_images(base, bundle, prompt, SEEDS_ASKED))

    def scored(self, base: Base, images: Images, concept: Concept) -> dict[str, float | None]:
        """Return all scores of images, rounded."""
        network, references = load_embedding(), reference_pictures(base, concept.references)
        plain = [text.format(concept.class_noun) for text in self.prompts]
        scores = asdict(scores_of(asking(base, self.prompts), network, images, references, plain, concept.class_noun))
        flat = images.reshape(-1, *images.shape[2:])
        mine, theirs = (embed(middle(x), network) for x in (flat, references))
        scores["middle_identity"] = float((mine @ theirs.T).mean())
        own_prompts = [prompt for prompt in plain for _ in range(images.shape[1])]
        scores |= self.metrics.scores([Image.fromarray(x) for x in flat], concept.references, own_prompts)
        return {name: None if value is None else round(value, 4) for name, value in scores.items()}

    def _images(self, name: str, generate: Callable[[str], NDArray[np.uint8]]) -> Images:
        return np.stack([generate(prompt.format(name)) for prompt in self.prompts])


def asking(base: Base, prompts: tuple[str, ...]) -> Base:
    """Return a base that shares the networks of another, and whose scene prompts are these: `scores_of` reads them."""
    _ = base.backbones, base.text, base.last_text_layer  # loaded here, they are loaded once
    twin = copy.copy(base)
    twin.manifest = replace(base.manifest, scene_prompts=list(prompts))
    return twin
