"""Rows of methods that learn elsewhere: their images are read from a folder and scored as any row's.

FOLDER/CONCEPT/prompts.txt          prompt 1 in line 1, and so on
FOLDER/CONCEPT/01/0.png ... 3.png   the images of prompt 1 with four seeds
FOLDER/CONCEPT/02/0.png ...
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from opad_core.bases.captions import report_scenes
from opad_core.bases.loading import Base
from opad_core.bases.manifest import hash_of
from opad_core.errors import OpadError
from opad_core.evaluation.report import SEEDS
from opad_core.pixels import squared
from opad_core.reference_folder import shown
from opad_core.tables.code_hash import code_hash
from opad_core.tables.concepts import Concept
from opad_core.tables.rows import ROWS, Row
from opad_core.tables.running import Examination, Run, machine
from opad_core.tables.scoring import Images

PROMPTS = "prompts.txt"
IP_ADAPTER = "ip_adapter"
"""The row of images that `ip_adapter` made."""
NAMED = 5
"""The most missing images that a message names."""


def named_folders(assignments: Sequence[str]) -> dict[str, Path]:
    """Parse `NAME=FOLDER`. Raises OpadError for another form, a name of a row, and a folder that is not there."""
    folders = {}
    for assignment in assignments:
        name, equals, folder = assignment.partition("=")
        if not equals or not name:
            raise OpadError(f"--images-of takes NAME=FOLDER, got {assignment!r}")
        if name in ROWS or name in folders or name == IP_ADAPTER:
            raise OpadError(f"there is a row {name!r} already; choose another name for the images in {folder}")
        if not Path(folder).is_dir():
            raise OpadError(f"there is no folder {shown(folder)} with images of {name}")
        folders[name] = Path(folder)
    return folders


def prompts_of(base: Base, concept: Concept, prompts: Sequence[str]) -> list[str]:
    """Return a concept's prompts as a person reads them: the protocol's, or else the scenes that no photo showed."""
    scenes = prompts or report_scenes(base, concept.references, concept.class_noun)
    return [scene.format(concept.class_noun) for scene in scenes]


def write_prompts(folder: Path, concept: str, prompts: Sequence[str]) -> None:
    """Write the prompts that images of a concept are needed for."""
    (folder / concept).mkdir(parents=True, exist_ok=True)
    (folder / concept / PROMPTS).write_text("".join(f"{prompt}\n" for prompt in prompts))


def image_files(folder: Path, concept: str, count: int) -> list[list[Path]]:
    """Return the files of a concept's images: a list for each of `count` prompts, with a file for each seed."""
    return [
        [folder / concept / f"{number:02}" / f"{seed}.png" for seed in range(SEEDS)] for number in range(1, count + 1)
    ]


def missing_images(folder: Path, counts: dict[str, int]) -> str | None:
    """Say which images a folder lacks; None if it has all. `counts` has the number of prompts by concept."""
    files = [file for name, count in counts.items() for one in image_files(folder, name, count) for file in one]
    missing = [str(file.relative_to(folder)) for file in files if not file.is_file()]
    if not missing:
        return None
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return f"{shown(folder)} lacks {len(missing)} of {len(files)} images: {', '.join(missing[:NAMED])}{more}"


def read_images(files: list[list[Path]], resolution: int) -> Images:
    """Read images as squares of a base's resolution. Raises OpadError for a file that is no image."""

    def read(file: Path) -> np.ndarray:
        try:
            with Image.open(file) as image:
                square = squared(image, keep_aspect=True)
        except (UnidentifiedImageError, OSError) as error:
            raise OpadError(f"{shown(file)} cannot be read as an image: {error}") from error
        return np.asarray(square.resize((resolution, resolution), Image.Resampling.LANCZOS))

    return np.stack([np.stack([read(file) for file in of_prompt]) for of_prompt in files])


def row_of(name: str) -> Row:
    """Return the row of images that were made elsewhere, or by IP-Adapter, in the table of the methods."""
    label = "IP-Adapter (TCD and SDXL)" if name == IP_ADAPTER else f"{name} (images made elsewhere)"
    return Row(name, label, "elsewhere", ("5",))


def files_settings(files: list[list[Path]]) -> dict[str, str]:
    """Return what identifies images: the hash of their files."""
    digests = [hash_of(file) for of_prompt in files for file in of_prompt]
    return {"images_sha256": hashlib.sha256("".join(digests).encode()).hexdigest()}


def score_folder(base: Base, concept: Concept, name: str, files: list[list[Path]], examination: Examination) -> Run:
    """Return the line of a concept's images, which must be there."""
    scores = examination.scored(base, read_images(files, base.manifest.resolution), concept)
    return {
        "row": name, "elsewhere": True, "concept": concept.name, "seed": 0, "code": scoring_code(),
        "base_sha256": base.manifest.sha256, "settings": files_settings(files), "machine": machine(),
        "seconds": 0.0, "scores": {"1": scores},
    }  # fmt: skip


def scoring_code() -> str:
    return code_hash(["opad_core.tables.scoring", "opad_core.tables.elsewhere"])


def current_elsewhere(runs: Sequence[Run], base_sha256: str) -> list[Run]:
    """Return the runs of images made elsewhere, scored by today's code: the newest of each row and concept."""
    newest = {}
    for run in runs:
        if "elsewhere" in run and run["base_sha256"] == base_sha256 and run["code"] == scoring_code():
            newest[run["row"], run["concept"]] = run
    return list(newest.values())
