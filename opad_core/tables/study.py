"""A user study: each group shows one image of each method, of the same concept, prompt and seed.

The folder holds `study.json` and the images that it names. `opad study import` loads it into the service, where people
choose the best image of each group without knowing which method made it (paper's supplement, table 7).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from opad_core.bases.captions import report_scenes
from opad_core.bases.loading import Base
from opad_core.errors import DivergedError, OpadError
from opad_core.tables.concepts import Concept
from opad_core.tables.rows import Row, config_of, settings_of
from opad_core.tables.running import code_of, learn
from opad_core.tables.scoring import student_scenes

FORMAT = 1
STUDY = "study.json"
SEED = 0
"""Seed of the trainings."""
STEPS = 1
"""Evaluations with which the images are generated."""


def prompts_of(base: Base, concept: Concept) -> list[str]:
    """Return the prompts of the report card as a person reads them."""
    return [text.format(concept.class_noun) for text in report_scenes(base, concept.references, concept.class_noun)]


def image_file(base: Base, row: Row, concept: Concept, number: int) -> str:
    """Return the path of an image inside the folder. Images of other code, base or settings have other paths."""
    made_by = [code_of(row), base.manifest.sha256, settings_of(row, base.manifest)]
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
    return f"images/{row.name}-{digest[:16]}/{concept.name}/{number}.png"


def has_images(folder: Path, base: Base, row: Row, concept: Concept) -> bool:
    """Return whether the folder holds the images of a row and a concept."""
    count = len(prompts_of(base, concept))
    return all((folder / image_file(base, row, concept, number)).is_file() for number in range(count))


def make_images(folder: Path, base: Base, row: Row, concept: Concept) -> None:
    """Learn a concept and write one image for each prompt, each prompt with its own seed.

    Raises OpadError if the training diverges: a group without an image of each method cannot be shown.
    """
    bundle = None
    if row.method != "untouched":
        try:
            bundle, _ = learn(base, concept, replace(row, stages=()), config_of(row, base.manifest), seed=SEED)
        except DivergedError as error:
            said = f"{row.name} diverged on {concept.name} ({error}); leave one of them out of the study"
            raise OpadError(said) from error
    for number, of_prompt in enumerate(student_scenes(base, bundle, concept, steps=STEPS)):
        picture = Image.fromarray(of_prompt[number % len(of_prompt)])
        write_image(picture, folder / image_file(base, row, concept, number))


def write_study(folder: Path, base: Base, rows: Sequence[Row], concepts: Sequence[Concept]) -> int:
    """Write the photos and `study.json`, and return the number of groups."""
    described, groups = [], []
    for concept in concepts:
        files = [f"references/{concept.name}/{number}.png" for number in range(len(concept.references))]
        for file, photo in zip(files, concept.references, strict=True):
            write_image(photo, folder / file)
        described.append({"name": concept.name, "class_noun": concept.class_noun, "references": files})
        groups += [
            {
                "concept": concept.name,
                "prompt": prompt,
                "images": {row.name: image_file(base, row, concept, number) for row in rows},
            }
            for number, prompt in enumerate(prompts_of(base, concept))
        ]
    study = {
        "format": FORMAT,
        "title": folder.resolve().name,
        "methods": [{"name": row.name, "label": row.label} for row in rows],
        "concepts": described,
        "groups": groups,
    }
    _replace(folder / STUDY, json.dumps(study, indent=1, ensure_ascii=False).encode())
    return len(groups)


def write_image(image: Image.Image, file: Path, kind: str = "PNG", **options: Any) -> None:
    """Write an image that is there whole or not at all. Kind and options are those of Pillow's `save`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    image.save(partial, kind, **options)
    partial.replace(file)


def _replace(file: Path, data: bytes) -> None:
    partial = file.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(file)
