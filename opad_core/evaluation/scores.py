"""The scores of a set of generated images."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """Scores are cosines in [-1, 1] unless noted. None means that the base has no network for the score."""

    identity: float
    """Mean over images and references, by EfficientNet-Lite0."""
    text_fit: float | None
    """CLIP-T: images against prompts, in which the class noun replaces the placeholder."""
    scene_accuracy: float | None
    """Share of the images whose own scene prompt fits best among all scene prompts of the base."""
    clip_image: float
    """CLIP-I: images against references."""
    dino: float
    """Images against references, by the class token of the first discriminator's network."""
    diversity: float
    """Mean distance (1 - cosine, EfficientNet-Lite0) between images of one prompt."""
    closest: float
    """The highest cosine of any image with any reference, by EfficientNet-Lite0."""
    copies: float
    """Share of the images whose cosine with a reference is above `COPIED`."""
