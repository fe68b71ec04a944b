"""Generate and score the images of a run for prompts that a protocol gives, with the published metrics beside nano's.

It does what `scoring` does for scenes that no photo showed.
"""

import copy
from dataclasses import dataclass, replace

from PIL import Image

from opad_core.bases.loading import Base
from opad_core.evaluation.published import PublishedMetrics
from opad_core.generation.bundle import Bundle
from opad_core.tables.concepts import Concept
from opad_core.tables.scoring import Images, rounded, student_prompts, teacher_prompts, unrounded


@dataclass(frozen=True)
class Prompted:
    """The prompts of a subject, each with one `{}`, and the networks that score its images."""

    prompts: tuple[str, ...]
    metrics: PublishedMetrics

    def student_scenes(self, base: Base, bundle: Bundle | None, concept: Concept, *, steps: int) -> Images:
        """Generate in a number of steps, with the untouched student if there is no bundle."""
        return student_prompts(base, bundle, concept, self.prompts, steps=steps)

    def teacher_scenes(self, base: Base, bundle: Bundle, concept: Concept) -> Images:
        """Generate with the teacher, as the paper does: 25 steps with guidance 7.5."""
        return teacher_prompts(base, bundle, self.prompts)

    def scored(self, base: Base, images: Images, concept: Concept) -> dict[str, float | None]:
        """Return all scores of images, rounded."""
        scores = unrounded(asking(base, self.prompts), images, concept, self.prompts)
        flat = [Image.fromarray(x) for x in images.reshape(-1, *images.shape[2:])]
        own_prompts = [text.format(concept.class_noun) for text in self.prompts for _ in range(images.shape[1])]
        return rounded(scores | self.metrics.scores(flat, concept.references, own_prompts))


def asking(base: Base, prompts: tuple[str, ...]) -> Base:
    """Return a base that shares the networks of another, and whose scene prompts are these: `scores_of` reads them."""
    _ = base.backbones, base.text, base.last_text_layer  # loaded here, they are loaded once
    twin = copy.copy(base)
    twin.manifest = replace(base.manifest, scene_prompts=list(prompts))
    return twin
