"""The report card of a concept: what it shows, how well it fits, how much it varies, each beside the untouched student.

Identity and the copy check come from a network that trained nothing here. Text fit, CLIP-I and DINO are the field's
usual scores on the base's own networks; those also judged in training, so read them together with the first.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from opad_core.bases.captions import held_out_scenes
from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.evaluation.embedding import EfficientNetLite0, embed, load_embedding
from opad_core.evaluation.sheet import Row, draw_sheet
from opad_core.generation.bundle import Bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.pixels import squared, to_pixels

SCENES, SEEDS = 8, 4
"""Scene prompts asked for and pictures of each."""
FIRST_SEED = 1_000
COPIED = 0.95
"""A picture closer than this to a reference repeats it, scene and all; another picture of the thing stays below."""


@dataclass(frozen=True)
class Scores:
    """Cosines in [-1, 1] unless said otherwise; None where the base has no network for it."""

    identity: float
    """Mean over pictures and references, by EfficientNet-Lite0."""
    text_fit: float | None
    """CLIP-T: picture against prompt, the placeholder read as the class noun."""
    scene_accuracy: float | None
    """Share of the pictures that fit, of all the base's scene prompts, best the one that was asked for."""
    clip_image: float
    """CLIP-I: pictures against references."""
    dino: float
    """Class tokens of the first discriminator's network, pictures against references."""
    diversity: float
    """Mean distance (1 - cosine, EfficientNet-Lite0) between pictures of one prompt."""
    closest: float
    """The highest cosine of any picture with any reference, by EfficientNet-Lite0."""
    copies: float
    """Share of the pictures closer than `COPIED` to a reference."""


@dataclass(frozen=True)
class ReportCard:
    prompts: list[str]
    seeds: list[int]
    personalised: Scores
    untouched: Scores
    sheet: Image.Image

    def figures(self) -> dict[str, object]:
        """Everything but the sheet, as JSON takes it, rounded to what the sample supports."""
        rounded = {
            side: {name: None if value is None else round(value, 4) for name, value in asdict(scores).items()}
            for side, scores in (("personalised", self.personalised), ("untouched", self.untouched))
        }
        return {"prompts": self.prompts, "seeds": self.seeds, **rounded}


def report_card(bundle: Bundle, base: Base, references: list[Image.Image]) -> ReportCard:
    """Draws `SCENES` x `SEEDS` pictures of the concept and as many of the untouched student, and scores both.

    The prompts ask for scenes that the student was never asked for while it learned, and that no reference shows.
    Raises OpadError when there is none.
    """
    generator, network = OneStepGenerator(base), load_embedding()
    scenes = held_out_scenes(base, references, bundle.class_noun)[:SCENES]
    if not scenes:
        raise OpadError(f"the base {base.manifest.name!r} names no scene that training leaves for the report")
    prompts = [text.format(PLACEHOLDER) for text in scenes]
    plain = [prompt.replace(PLACEHOLDER, bundle.class_noun) for prompt in prompts]
    seeds = list(range(FIRST_SEED, FIRST_SEED + SEEDS))
    personalised = _generated(generator, bundle, prompts, seeds)
    untouched = _generated(generator, None, plain, seeds)
    side = base.manifest.resolution
    reference_images = np.stack(
        [np.asarray(squared(r, keep_aspect=True).resize((side, side), Image.Resampling.LANCZOS)) for r in references]
    )
    before, after = (
        _scores(base, network, images, reference_images, plain, bundle.class_noun)
        for images in (untouched, personalised)
    )
    rows = [
        Row(prompt, _pil_images(left), _pil_images(right))
        for prompt, left, right in zip(prompts, untouched, personalised, strict=True)
    ]
    subtitle = f"identity {before.identity:.2f} before, {after.identity:.2f} after   one diffusion step a picture"
    return ReportCard(
        prompts=prompts,
        seeds=seeds,
        personalised=after,
        untouched=before,
        sheet=draw_sheet(f"OPAD: this {bundle.class_noun}", subtitle, references, rows),
    )


@torch.no_grad()
def _scores(
    base: Base, network: EfficientNetLite0, images: NDArray[np.uint8], references: NDArray[np.uint8],
    prompts: list[str], class_noun: str,
) -> Scores:  # fmt: skip
    """Pictures [prompts, seeds, r, r, 3] against references [k, r, r, 3] and prompts that name the class noun."""
    flat = images.reshape(-1, *images.shape[2:])
    independent = embed(flat, network)
    likeness = independent @ embed(references, network).T
    x, x_references = (
        torch.stack([to_pixels(p) for p in _pil_images(group)]).to(base.device) for group in (flat, references)
    )
    clip = base.embedded_images(x)
    dino, dino_references = (
        F.normalize(base.backbones[0](part, resize_mode="bicubic", normalize=True), dim=-1)
        for part in (x, x_references)
    )
    text_fit = scene_accuracy = None
    scenes = [text.format(class_noun) for text in base.manifest.scene_prompts]
    words = base.embedded_prompts(scenes)
    if words is not None:
        fit = clip @ words.T
        asked = torch.tensor([scenes.index(prompt) for prompt in prompts], device=fit.device)
        asked = asked.repeat_interleave(images.shape[1])
        text_fit = float(fit.gather(1, asked[:, None]).mean())
        scene_accuracy = float((fit.argmax(1) == asked).float().mean())
    return Scores(
        identity=float(likeness.mean()),
        text_fit=text_fit,
        scene_accuracy=scene_accuracy,
        clip_image=float((clip @ base.embedded_images(x_references).T).mean()),
        dino=float((dino @ dino_references.T).mean()),
        diversity=_diversity(independent.unflatten(0, images.shape[:2])),
        closest=float(likeness.max()),
        copies=float((likeness.max(1).values > COPIED).float().mean()),
    )


def _diversity(features: Tensor) -> float:
    """Mean distance between the pictures of one prompt; unit features [prompts, seeds, d]."""
    distances = 1 - features @ features.mT
    first, second = torch.triu_indices(features.shape[1], features.shape[1], offset=1)
    return float(distances[:, first, second].mean())


def _generated(
    generator: OneStepGenerator, bundle: Bundle | None, prompts: list[str], seeds: list[int]
) -> NDArray[np.uint8]:
    """[prompts, seeds, r, r, 3]."""
    return np.stack([generator.generate([ImageRequest(bundle, p, seed) for seed in seeds]) for p in prompts])


def _pil_images(images: NDArray[np.uint8]) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images]
