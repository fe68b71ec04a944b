"""The report card of a concept: identity, prompt fit and diversity, each beside the untouched student, and a verdict.

Identity and the copy check use a network that takes no part in training. Text fit, CLIP-I and DINO are the field's
usual scores on the base's networks. Those are also discriminators, so read these scores together with identity.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from opad_core.bases.captions import report_scenes
from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.evaluation.embedding import EfficientNetLite, embed, load_embedding
from opad_core.evaluation.scores import Scores
from opad_core.evaluation.sheet import Row, draw_sheet
from opad_core.evaluation.verdict import Verdict, verdict_of
from opad_core.generation.bundle import Bundle
from opad_core.generation.generator import DecoderName, ImageRequest, OneStepGenerator
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.pixels import squared, to_pixels

SEEDS = 4
"""Number of images per prompt."""
IMAGES = 4
"""Number of images that a card shows by themselves."""
FIRST_SEED = 1_000
COPIED = 0.95
"""Cosine above which an image repeats a reference, scene included. New images of the same object stay below."""


@dataclass(frozen=True)
class ReportCard:
    prompts: list[str]
    seeds: list[int]
    personalised: Scores
    untouched: Scores
    fast_identity: float | None
    """Identity of the personalised images if the fast decoder decodes them; None if the base has none."""
    verdict: Verdict
    images: list[Image.Image]
    """The first images of the concept, of as many prompts as possible."""
    sheet: Image.Image

    def figures(self) -> dict[str, object]:
        """Return everything but the images as plain data, rounded to four digits."""
        rounded = {
            side: {name: None if value is None else round(value, 4) for name, value in asdict(scores).items()}
            for side, scores in (("personalised", self.personalised), ("untouched", self.untouched))
        }
        fast_decoder = None
        if self.fast_identity is not None:
            cost = self.personalised.identity - self.fast_identity
            fast_decoder = {"identity": round(self.fast_identity, 4), "identity_cost": round(cost, 4)}
        return {
            "prompts": self.prompts,
            "seeds": self.seeds,
            **rounded,
            "fast_decoder": fast_decoder,
            "verdict": asdict(self.verdict),
        }


def report_card(bundle: Bundle, base: Base, references: list[Image.Image]) -> ReportCard:
    """Generate `SEEDS` images of each scene prompt, and as many of the untouched student, and score both.

    If the base has a fast decoder, it decodes the concept's images, too, so the card can say what it costs.
    The prompts are `report_scenes`: training never asked for these scenes, and no reference shows them. Raises
    OpadError if there are none.
    """
    generator, network = OneStepGenerator(base), load_embedding()
    scenes = report_scenes(base, references, bundle.class_noun)
    if not scenes:
        raise OpadError(f"the base {base.manifest.name!r} has no scene prompt that training leaves for the report")
    prompts = [text.format(PLACEHOLDER) for text in scenes]
    plain = [prompt.replace(PLACEHOLDER, bundle.class_noun) for prompt in prompts]
    seeds = list(range(FIRST_SEED, FIRST_SEED + SEEDS))
    personalised = _generated(generator, bundle, prompts, seeds)
    untouched = _generated(generator, None, plain, seeds)
    reference_images = reference_pictures(base, references)
    before, after = (
        scores_of(base, network, images, reference_images, plain, bundle.class_noun)
        for images in (untouched, personalised)
    )
    fast_identity = None
    if base.no_fast_decoder is None:
        fast = _generated(generator, bundle, prompts, seeds, decoder="fast")
        fast_identity = _identity(network, fast, reference_images)
    rows = [
        Row(prompt, _pil_images(left), _pil_images(right))
        for prompt, left, right in zip(prompts, untouched, personalised, strict=True)
    ]
    subtitle = f"identity {before.identity:.2f} before, {after.identity:.2f} after   one diffusion step per image"
    verdict = verdict_of(after, before)
    return ReportCard(
        prompts=prompts,
        seeds=seeds,
        personalised=after,
        untouched=before,
        fast_identity=fast_identity,
        verdict=verdict,
        images=_pil_images(np.concatenate(personalised.swapaxes(0, 1))[:IMAGES]),
        sheet=draw_sheet(f"OPAD: this {bundle.class_noun}", subtitle, references, rows, ending=verdict),
    )


def reference_pictures(base: Base, references: list[Image.Image]) -> NDArray[np.uint8]:
    """Return the references as squares in the base's resolution, [k, r, r, 3]."""
    side = base.manifest.resolution
    return np.stack(
        [np.asarray(squared(r, keep_aspect=True).resize((side, side), Image.Resampling.LANCZOS)) for r in references]
    )


@torch.no_grad()
def scores_of(
    base: Base, network: EfficientNetLite, images: NDArray[np.uint8], references: NDArray[np.uint8],
    prompts: list[str], class_noun: str,
) -> Scores:  # fmt: skip
    """Score images [prompts, seeds, r, r, 3] against references [k, r, r, 3] and prompts with the class noun."""
    flat = images.reshape(-1, *images.shape[2:])
    independent = embed(flat, network)
    likeness = independent @ embed(references, network).T
    # x are the generated images, y the references
    x, y = (torch.stack([to_pixels(p) for p in _pil_images(group)]).to(base.device) for group in (flat, references))
    clip = base.embedded_images(x)
    dino, dino_y = (
        F.normalize(base.backbones[0](part, resize_mode="bicubic", normalize=True), dim=-1) for part in (x, y)
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
        clip_image=float((clip @ base.embedded_images(y).T).mean()),
        dino=float((dino @ dino_y.T).mean()),
        diversity=_diversity(independent.unflatten(0, images.shape[:2])),
        closest=float(likeness.max()),
        copies=float((likeness.max(1).values > COPIED).float().mean()),
    )


def _identity(network: EfficientNetLite, images: NDArray[np.uint8], references: NDArray[np.uint8]) -> float:
    """Return the mean cosine of images [prompts, seeds, r, r, 3] with references [k, r, r, 3]."""
    return float((embed(images.reshape(-1, *images.shape[2:]), network) @ embed(references, network).T).mean())


def _diversity(features: Tensor) -> float:
    """Return the mean distance between images of one prompt from unit features [prompts, seeds, d]."""
    distances = 1 - features @ features.mT
    first, second = torch.triu_indices(features.shape[1], features.shape[1], offset=1)
    return float(distances[:, first, second].mean())


def _generated(
    generator: OneStepGenerator,
    bundle: Bundle | None,
    prompts: list[str],
    seeds: list[int],
    *,
    decoder: DecoderName = "full",
) -> NDArray[np.uint8]:
    """Generate images [prompts, seeds, r, r, 3]."""
    return np.stack([generator.generate([ImageRequest(bundle, p, seed, decoder) for seed in seeds]) for p in prompts])


def _pil_images(images: NDArray[np.uint8]) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images]
