"""The verdict that ends a report card: one sentence and a color.

docs/verdict.md has the trainings behind the thresholds.
"""

from dataclasses import dataclass
from typing import Literal

from opad_core.evaluation.scores import Scores

MIN_GAIN = 0.02
"""Least rise of the identity score. Trainings that differ only in their seed differ by 0.006 (standard deviation)."""
MAX_FALL = 0.05
"""Fall of the identity score above which the color is red: images of a learned concept are softer, which costs 0.02."""
MAX_SCENE_LOSS = 0.15
"""Largest fall of the scene accuracy: two standard errors of a share of 32 images near 0.75."""
MIN_DIVERSITY = 0.02
"""Least mean distance between images of one prompt. At 0.012, four seeds look like one image; at 0.03, they differ."""


@dataclass(frozen=True)
class Verdict:
    name: Literal["learned_well", "likeness_did_not_rise", "scenes_lost", "images_nearly_alike"]
    color: Literal["green", "amber", "red"]
    sentence: str


def verdict_of(personalised: Scores, untouched: Scores) -> Verdict:
    """Return the verdict on a concept, from its scores and the untouched student's. The first fault found decides."""
    before, after = untouched.identity, personalised.identity
    scenes_before, scenes_after = untouched.scene_accuracy, personalised.scene_accuracy
    if scenes_before is not None and scenes_after is not None and scenes_before - scenes_after > MAX_SCENE_LOSS:
        return Verdict(
            "scenes_lost",
            "red",
            f"Scenes lost: {scenes_after:.0%} of the images show the scene of their prompt, "
            f"{scenes_before:.0%} before the training. Try photos with different backgrounds.",
        )
    if after - before < MIN_GAIN:
        return Verdict(
            "likeness_did_not_rise",
            "red" if before - after > MAX_FALL else "amber",
            f"The likeness did not rise: {before:.2f} before the training, {after:.2f} after it. "
            "Compare the images with your photos.",
        )
    if personalised.diversity < MIN_DIVERSITY:
        return Verdict(
            "images_nearly_alike",
            "amber",
            f"Images nearly alike: the likeness rose from {before:.2f} to {after:.2f}, "
            "but another seed hardly changes an image.",
        )
    return Verdict("learned_well", "green", f"Learned well: the likeness rose from {before:.2f} to {after:.2f}.")
