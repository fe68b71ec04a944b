"""Prepare the references of a concept for a base and a config."""

import hashlib
import json
from dataclasses import asdict, dataclass

from PIL import Image
from torch import Tensor

from opad_core.bases.captions import evaluation_scenes, scenes_of
from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.pixels import reference_pixels
from opad_core.training.augmentation import Example, reference_examples
from opad_core.training.config import TrainingConfig


@dataclass(frozen=True)
class TrainingData:
    """The references of one concept, on one base."""

    base: Base
    class_noun: str
    pixels: Tensor
    """The references without augmentation, [k, 3, r, r] in [-1, 1], on the base's device."""
    examples: list[Example]
    """Every reference with every training prompt."""
    start_row: Tensor
    """Token embedding where V* starts, [d], on the base's device."""
    evaluation_scenes: list[str]
    """Scene prompts of the evaluations; empty if the config asks for none, or if the base has none left."""
    sha256: str
    """Hash of the references as they were given."""


def prepare_data(base: Base, references: list[Image.Image], class_noun: str, config: TrainingConfig) -> TrainingData:
    """Prepare references for training. Raises OpadError for a class noun that the base does not know."""
    if base.manifest.nouns is not None and class_noun not in base.manifest.nouns:
        raise OpadError(
            f"the base {base.manifest.name!r} does not know the class noun {class_noun!r}; "
            f"it knows {', '.join(sorted(base.manifest.nouns))}"
        )
    held_out = evaluation_scenes(base, references, class_noun) if config.eval_every else []
    references = references[: config.max_references or len(references)]
    pixels = reference_pixels(references, base.manifest.resolution, keep_aspect=config.keep_aspect).to(base.device)
    scenes = scenes_of(base, pixels, class_noun) if config.scene_captions else [""] * len(references)
    templates = list(config.templates) or base.manifest.templates
    examples = reference_examples(references, scenes, templates, keep_aspect=config.keep_aspect)
    digest = hashlib.sha256()
    for image in references:
        digest.update(image.convert("RGB").tobytes())
    start_row = _start_row(base, class_noun, config)
    return TrainingData(base, class_noun, pixels, examples, start_row, held_out, digest.hexdigest())


def _start_row(base: Base, class_noun: str, config: TrainingConfig) -> Tensor:
    look_up = base.text.entry_of if config.initializer_lookup == "entry" else base.text.embedding_of
    return look_up(config.initializer_word or class_noun).to(base.device)


def fingerprint(method: str, data: TrainingData, config: TrainingConfig, *, seed: int) -> str:
    """Return a hash of everything that the result of a training depends on."""
    what = [method, asdict(config), seed, data.class_noun, data.base.manifest.sha256, data.sha256]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()
