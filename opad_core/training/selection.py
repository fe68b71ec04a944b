"""Evaluate the averaged adapter during training: which one to keep, and when the concept is learned.

An evaluation uses scenes that no training prompt names and that the report card does not use. It scores them by
EfficientNet-Lite1, which neither trains nor makes the reported score.
"""

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor
from torch.nn import functional as F

from opad_core.bases.loading import Base
from opad_core.evaluation.embedding import LITE1, EfficientNetLite, embed, load_embedding
from opad_core.generation.bundle import Bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.pixels import to_uint8

MIN_SCENES = 2
"""Fewest scenes of an evaluation. Fidelity compares a scene with the others."""
SEEDS = (2_000, 2_001)
"""Seeds of the images of each scene; the report card has others. On the nano base an evaluation costs one iteration."""


FIDELITY_WEIGHT = 0.5
"""Without it, likeness rises when the photos' backgrounds are copied. With 1, the score followed the report card's
identity plus scene accuracy less closely."""


class HeldOutEvaluation:
    """Scores bundles of one concept. The first score loads the network and generates the untouched student's images."""

    def __init__(self, base: Base, references: Tensor, class_noun: str, scenes: Sequence[str]) -> None:
        """`references` [k, 3, r, r] in [-1, 1]; at least MIN_SCENES scene prompts."""
        self._base, self._references, self._noun, self._scenes = base, references, class_noun, scenes

    def score(self, bundle: Bundle) -> float:
        """Return likeness plus weighted fidelity, in [-2, 2].

        Likeness is the mean cosine of the images with the references. Fidelity is how much nearer, in cosine, an image
        is to the untouched student's images of the same scene than to those of the other scenes, on average.
        """
        features = self._features(bundle, PLACEHOLDER)
        likeness = features @ self._reference_features.T
        with_scenes = (features @ self._scene_features.T).mean(1)  # [scenes, scenes]
        others = with_scenes.sum(1) - with_scenes.diagonal()
        fidelity = with_scenes.diagonal() - others / (len(self._scenes) - 1)
        return float(likeness.mean() + FIDELITY_WEIGHT * fidelity.mean())

    @cached_property
    def _network(self) -> EfficientNetLite:
        return load_embedding(LITE1).to(self._base.device)

    @cached_property
    def _reference_features(self) -> Tensor:
        """Unit features of the references, [k, d]."""
        return embed(to_uint8(self._references), self._network)

    @cached_property
    def _scene_features(self) -> Tensor:
        """Unit features of the scenes, [scenes, d]: the mean over the untouched student's images of the class noun."""
        return F.normalize(self._features(None, self._noun).mean(1), dim=-1)

    def _features(self, bundle: Bundle | None, subject: str) -> Tensor:
        """Return the unit features of an image of the subject for each scene and seed, [scenes, seeds, d]."""
        requests = [
            ImageRequest(bundle, scene.format(subject), seed) for scene in self._scenes for seed in SEEDS
        ]  # fmt: skip
        images = OneStepGenerator(self._base).generate(requests)
        return embed(images, self._network).unflatten(0, (len(self._scenes), len(SEEDS)))


def is_learned(scores: Sequence[float], *, patience: int, min_gain: float) -> bool:
    """Return whether the best score rose by `min_gain` or less in the last `patience` evaluations; 0: never."""
    if not patience or len(scores) <= patience:
        return False
    return max(scores) - max(scores[:-patience]) <= min_gain
