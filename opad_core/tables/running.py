"""One run: learn a concept as a row says, and score the images of its networks."""

import platform
import time
from typing import Any, Protocol

import numpy as np
import psutil
from PIL import Image

from opad_core.bases.loading import Base
from opad_core.errors import DivergedError
from opad_core.generation.bundle import ADAPTERS, Bundle, read_bundle
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.train import fast_training
from opad_core.nano.judge import WEIGHTS
from opad_core.tables import scoring
from opad_core.tables.code_hash import code_hash
from opad_core.tables.concepts import Concept
from opad_core.tables.rows import Row, config_of, settings_of
from opad_core.tables.scoring import Images
from opad_core.training.config import TrainingConfig
from opad_core.training.loop import Progress, run
from opad_core.training.tf32 import tf32_products

SHOWN = 4
"""Images of a run that a contact sheet shows."""

Run = dict[str, Any]
"""What a line of runs.jsonl holds: row, concept, seed, code, base_sha256, machine, settings, seconds (of the processor,
for the estimate alone), and either `scores` by result (a number of steps, or the name of a stage) or `failed` with the
reason."""


class Examination(Protocol):
    """Which images a run generates, and how they are scored: `scoring`, or the prompts of a protocol."""

    def student_scenes(self, base: Base, bundle: Bundle | None, concept: Concept, *, steps: int) -> Images: ...

    def teacher_scenes(self, base: Base, bundle: Bundle, concept: Concept) -> Images: ...

    def scored(self, base: Base, images: Images, concept: Concept) -> dict[str, float | None]: ...


def code_of(row: Row) -> str:
    """Return the hash of the code that runs of a row execute (its method, the loop, the scores) and of the judge."""
    modules = ["opad_core.training.loop", "opad_core.training.data", "opad_core.tables.scoring"]
    if row.method != "untouched":
        modules.append("opad_core.methods.opad.method" if row.method == "opad" else f"opad_core.methods.{row.method}")
    return code_hash(modules, weights=[WEIGHTS])


def measure(
    base: Base, concept: Concept, row: Row, *, seed: int, examination: Examination = scoring
) -> tuple[Run, Images | None]:
    """Run a row, and return its line and the images of its first result."""
    line: Run = {
        "row": row.name, "concept": concept.name, "seed": seed, "code": code_of(row),
        "base_sha256": base.manifest.sha256, "settings": settings_of(row, base.manifest), "machine": machine(),
    }  # fmt: skip
    began = time.process_time()
    learned: Bundle | None = None
    stages: dict[str, Bundle] = {}
    if row.method != "untouched":
        try:
            learned, stages = learn(base, concept, row, config_of(row, base.manifest), seed=seed)
        except DivergedError as error:
            return line | {"failed": str(error), "seconds": round(time.process_time() - began, 1)}, None
    line["seconds"] = round(time.process_time() - began, 1)
    results = {str(steps): examination.student_scenes(base, learned, concept, steps=steps) for steps in row.steps}
    for stage in row.stages:
        bundle = stages[stage.name]
        results[stage.name] = (
            examination.teacher_scenes(base, bundle, concept)
            if stage.network == "teacher"
            else examination.student_scenes(base, bundle, concept, steps=1)
        )
    line["scores"] = {name: examination.scored(base, images, concept) for name, images in results.items()}
    return line, results[str(row.steps[0])]


def learn(
    base: Base, concept: Concept, row: Row, config: TrainingConfig, *, seed: int
) -> tuple[Bundle, dict[str, Bundle]]:
    """Run a training. Return the student's bundle, and that of each stage of the row by name."""
    stages = {}
    if isinstance(config, OpadConfig):
        stages = {stage.name: (stage.network, stage.last_iteration(config)) for stage in row.stages}
    found: dict[str, Bundle] = {}

    def report(progress: Progress) -> None:
        for name, (network, last) in stages.items():
            if progress.step == last:
                data = training.teacher_bundle() if network == "teacher" else training.bundle()
                found[name] = read_bundle(data, adapters=ADAPTERS)

    with tf32_products(base):
        training = fast_training(base, concept.references, concept.class_noun, config, seed=seed)
        every = 1 if stages else None  # a stage may end between two reports
        learned = run(training, report=report, should_stop=lambda: False, report_every=every)
    return read_bundle(learned, adapters=ADAPTERS), found


def strip(images: Images) -> Image.Image:
    """Return the first images of as many prompts as possible, side by side."""
    first = images.swapaxes(0, 1).reshape(-1, *images.shape[2:])[:SHOWN]
    return Image.fromarray(np.concatenate(first, axis=1))


def machine() -> str:
    return f"{platform.machine()}, {psutil.cpu_count(logical=True)} cores, {platform.system()}"
