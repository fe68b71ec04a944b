"""`python -m bench.learning_rates`: search the learning rates of OPAD and its rivals on a base.

Each row of the tables learns two concepts that are in no table, with as many iterations as OPAD. The score is that of
`training.selection`: likeness and fidelity on held-out scenes by EfficientNet-Lite1, which no table reports. A run is
kept in OUT/ROW-RATE-CONCEPT.json, so an interrupted search continues. Runs that are in MEASURED are not repeated.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from opad_core import Base, DivergedError, load_base, override
from opad_core.__main__ import bases_folder
from opad_core.bases.captions import evaluation_scenes
from opad_core.generation.bundle import ADAPTERS, read_bundle
from opad_core.methods.train import train
from opad_core.pixels import reference_pixels
from opad_core.tables.concepts import Concept, read_concept
from opad_core.tables.rows import ROWS, config_of
from opad_core.training.selection import HeldOutEvaluation

MEASURED = Path("bench/learning_rates.json")
CONCEPTS = ("bench/concepts/sun_hat", "bench/concepts/black_cat")
GRIDS: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "opad": {
        "lr_student": (1e-3, 3e-3, 9e-3, 2.7e-2, 8e-2),
        "lr_teacher": (2.5e-3, 8e-3, 2.5e-2, 7.5e-2, 0.22),
        "lr_token": (1.5e-3, 5e-3, 1.5e-2, 4.5e-2, 0.14),
    },
    "custom_diffusion-informed": {
        "lr": (8e-4, 2.5e-3, 8e-3, 2.5e-2, 8e-2, 0.25),
        "lr_token": (1.5e-3, 5e-3, 1.5e-2, 4.5e-2, 0.15, 0.45),
    },
    "textual_inversion-informed": {"lr_token": (1.25e-3, 5e-3, 2e-2, 8e-2)},
    "dreambooth-informed": {"lr": (2e-5, 1e-4, 5e-4, 2.5e-3, 1.25e-2)},
    "lora-informed": {"lr": (1e-3, 4e-3, 1.6e-2, 6.4e-2), "lr_token": (1.5e-3, 5e-3, 1.5e-2, 4.5e-2)},
    "textboost-informed": {"lr": (6e-5, 2.5e-4, 1e-3, 4e-3), "lr_token": (4.5e-4, 1.5e-3, 5e-3, 1.5e-2)},
    "disenbooth-informed": {"lr": (1e-3, 4e-3, 1.6e-2, 6.4e-2)},
    "cones2-informed": {"lr": (5e-6, 5e-5, 5e-4)},
    "custom_diffusion": {"lr": (8e-4, 2.5e-3, 8e-3, 2.5e-2), "lr_token": (1.5e-3, 5e-3, 1.5e-2, 4.5e-2)},
}
"""The values of each field by row; the first values of all fields are tried together, then the second, and so on."""


def points(row: str) -> list[dict[str, float]]:
    fields = GRIDS[row]
    return [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)]


def measure(base: Base, concept: Concept, row: str, rates: Mapping[str, float]) -> dict[str, Any]:
    """Return the held-out score of one training; None if it diverged."""
    config = override(config_of(ROWS[row], base.manifest), dict(rates))
    found: dict[str, Any] = {"row": row, "concept": concept.name, **rates}
    try:
        learned = train(
            base, concept.references, concept.class_noun, config, seed=0,
            report=lambda progress: None, should_stop=lambda: False,
        )  # fmt: skip
    except DivergedError:
        return found | {"score": None}
    pixels = reference_pixels(concept.references, base.manifest.resolution, keep_aspect=True).to(base.device)
    scenes = evaluation_scenes(base, concept.references, concept.class_noun)
    evaluation = HeldOutEvaluation(base, pixels, concept.class_noun, scenes)
    return found | {"score": round(evaluation.score(read_bundle(learned, adapters=ADAPTERS)), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=list(GRIDS), choices=list(GRIDS), help="rows to search")
    parser.add_argument("--base", default="nano", help="name of a base or path of its folder")
    parser.add_argument("--out", type=Path, default=Path("build/learning_rates"), help="folder of the runs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = load_base(arguments.base, bases=bases_folder())
    concepts = [read_concept(Path(folder)) for folder in CONCEPTS]
    measured = json.loads(MEASURED.read_text())
    runs = []
    wanted = [(row, rates) for row in arguments.rows for rates in points(row)]
    for row, rates in tqdm(wanted):
        for concept in concepts:
            file = arguments.out / f"{row}-{'-'.join(f'{x:g}' for x in rates.values())}-{concept.name}.json"
            own = {"row": row, "concept": concept.name, **rates}
            known = next((run for run in measured if run.items() >= own.items()), None)
            if known is None and not file.exists():
                file.write_text(json.dumps(measure(base, concept, row, rates)))
            runs.append(known or json.loads(file.read_text()))
    for row, rates in wanted:
        own = [run["score"] for run in runs if run["row"] == row and run.items() >= rates.items()]
        scores = [score for score in own if score is not None]
        print(f"{row:<26} {rates}: {fmean(scores) if len(scores) == len(own) else 'diverged'}")
    (arguments.out / "results.json").write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
