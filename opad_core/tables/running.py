"""One run: learn a concept as a row says, generate images of scenes that no photo and no prompt showed, score them."""

import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from opad_core.bases.captions import report_scenes
from opad_core.bases.loading import Base
from opad_core.errors import DivergedError, OpadError
from opad_core.evaluation.embedding import embed, load_embedding
from opad_core.evaluation.report import FIRST_SEED, SEEDS, reference_pictures, scores_of
from opad_core.generation.bundle import ADAPTERS, Bundle, read_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.generation.many_step import student_images
from opad_core.methods.train import train
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.reference_folder import read_references
from opad_core.tables.code_hash import code_hash
from opad_core.tables.rows import Row, config_of

MIDDLE = 52 / 64
"""Share of an image's side that the second identity score compares. On nano the middle tells two photos of one object
from two objects with the same noun better than the whole image does."""
SHOWN = 4
"""Images of a run that a contact sheet shows."""

Run = dict[str, Any]
"""What a line of runs.jsonl holds: row, concept, seed, code, base_sha256, machine, settings, seconds (of the processor,
for the estimate alone), and either `scores` by number of steps or `failed` with the reason."""


@dataclass(frozen=True)
class Concept:
    name: str
    class_noun: str
    references: list[Image.Image]


def read_concept(folder: Path) -> Concept:
    """Read photos and `class.txt`. Raises OpadError if one is missing."""
    noun = folder / "class.txt"
    if not noun.is_file():
        raise OpadError(f"{folder} has no class.txt; write what the photos show into it, for instance dog")
    return Concept(folder.name, noun.read_text().strip(), read_references(folder))


def code_of(row: Row) -> str:
    """Return the hash of the code that runs of a row execute: its method, the loop, and the scores."""
    modules = ["opad_core.training.loop", "opad_core.training.data", "opad_core.evaluation.report"]
    modules += ["opad_core.generation.many_step", "opad_core.bases.captions"]
    if row.method != "untouched":
        modules.append("opad_core.methods.opad.method" if row.method == "opad" else f"opad_core.methods.{row.method}")
    return code_hash(modules)


def measure(base: Base, concept: Concept, row: Row, *, seed: int) -> tuple[Run, dict[int, NDArray[np.uint8]]]:
    """Run a row, and return its line and its images [prompts, seeds, r, r, 3] by number of steps."""
    run: Run = {
        "row": row.name, "concept": concept.name, "seed": seed, "code": code_of(row),
        "base_sha256": base.manifest.sha256, "machine": machine(),
    }  # fmt: skip
    began, bundle = time.process_time(), None
    if row.method != "untouched":
        config = config_of(row, base.manifest)
        run["settings"] = asdict(config)
        try:
            learned = train(
                base, concept.references, concept.class_noun, config, seed=seed,
                report=lambda progress: None, should_stop=lambda: False,
            )  # fmt: skip
        except DivergedError as error:
            return run | {"failed": str(error), "seconds": round(time.process_time() - began, 1)}, {}
        bundle = read_bundle(learned, adapters=ADAPTERS)
    run["seconds"] = round(time.process_time() - began, 1)
    scores, images = {}, {}
    for steps in row.steps:
        images[steps] = generated(base, bundle, concept, steps=steps)
        scores[str(steps)] = scored(base, images[steps], concept)
    return run | {"scores": scores}, images


def generated(base: Base, bundle: Bundle | None, concept: Concept, *, steps: int) -> NDArray[np.uint8]:
    """Generate the report card's images, [prompts, seeds, r, r, 3], in a number of steps."""
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
    name = concept.class_noun if bundle is None else PLACEHOLDER
    prompts = [text.format(name) for text in report_scenes(base, concept.references, concept.class_noun)]
    if steps == 1:
        generator = OneStepGenerator(base)
        return np.stack([generator.generate([ImageRequest(bundle, p, seed) for seed in seeds]) for p in prompts])
    return np.stack([student_images(base, bundle, prompt, seeds, steps=steps) for prompt in prompts])


def scored(base: Base, images: NDArray[np.uint8], concept: Concept) -> dict[str, float | None]:
    """Return the scores of images [prompts, seeds, r, r, 3], rounded."""
    network, references = load_embedding(), reference_pictures(base, concept.references)
    plain = [text.format(concept.class_noun) for text in report_scenes(base, concept.references, concept.class_noun)]
    scores = asdict(scores_of(base, network, images, references, plain, concept.class_noun))
    mine, theirs = (embed(middle(x), network) for x in (images.reshape(-1, *images.shape[2:]), references))
    scores["middle_identity"] = float((mine @ theirs.T).mean())
    return {name: None if value is None else round(value, 4) for name, value in scores.items()}


def middle(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle of images [n, r, r, 3]."""
    side = images.shape[1]
    edge = round(side * (1 - MIDDLE) / 2)
    return np.ascontiguousarray(images[:, edge : side - edge, edge : side - edge])


def strip(images: NDArray[np.uint8]) -> Image.Image:
    """Return the first images of as many prompts as possible, side by side."""
    first = images.swapaxes(0, 1).reshape(-1, *images.shape[2:])[:SHOWN]
    return Image.fromarray(np.concatenate(first, axis=1))


def machine() -> str:
    return f"{platform.machine()}, {psutil.cpu_count(logical=True)} cores, {platform.system()}"
