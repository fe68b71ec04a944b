"""`python -m bench.learning_rates`: search the learning rates of the comparison methods on a base.

Each method learns two concepts that are in no table, with the same information and as many iterations as OPAD. The
score is that of `training.selection`: likeness and fidelity on held-out scenes by EfficientNet-Lite1, which no table
reports. A run is kept in OUT/METHOD-RATE-CONCEPT.json, so an interrupted search continues. Runs that are in
MEASURED are not repeated.
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
    "custom_diffusion": {
        "lr": (8e-4, 2.5e-3, 8e-3, 2.5e-2, 8e-2, 0.25),
        "lr_token": (1.5e-3, 5e-3, 1.5e-2, 4.5e-2, 0.15, 0.45),
    },
    "textual_inversion": {"lr_token": (1.25e-3, 5e-3, 2e-2, 8e-2)},
    "dreambooth": {"lr": (2e-5, 1e-4, 5e-4, 2.5e-3, 1.25e-2)},
    "lora": {"lr": (1e-3, 4e-3, 1.6e-2, 6.4e-2), "lr_token": (1.5e-3, 5e-3, 1.5e-2, 4.5e-2)},
    "textboost": {"lr": (6e-5, 2.5e-4, 1e-3, 4e-3), "lr_token": (4.5e-4, 1.5e-3, 5e-3, 1.5e-2)},
    "disenbooth": {"lr": (1e-3, 4e-3, 1.6e-2, 6.4e-2)},
    "cones2": {"lr": (5e-6, 5e-5, 5e-4)},
}
"""The values of each field by method; the first values of all fields are tried together, then the second, and so on."""


def points(method: str) -> list[dict[str, float]]:
    fields = GRIDS[method]
    return [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)]


def measure(base: Base, concept: Concept, method: str, rates: Mapping[str, float]) -> dict[str, Any]:
    """Return the held-out score of one training; None if it diverged."""
    config = override(config_of(ROWS[f"{method}-informed"], base.manifest), dict(rates))
    found: dict[str, Any] = {"method": method, "concept": concept.name, **rates}
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
    parser.add_argument("--methods", nargs="+", default=list(GRIDS), choices=list(GRIDS), help="methods to search")
    parser.add_argument("--base", default="nano", help="name of a base or path of its folder")
    parser.add_argument("--out", type=Path, default=Path("build/learning_rates"), help="folder of the runs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = load_base(arguments.base, bases=bases_folder())
    concepts = [read_concept(Path(folder)) for folder in CONCEPTS]
    measured = json.loads(MEASURED.read_text())
    runs = []
    wanted = [(method, rates) for method in arguments.methods for rates in points(method)]
    for method, rates in tqdm(wanted):
        for concept in concepts:
            file = arguments.out / f"{method}-{'-'.join(f'{x:g}' for x in rates.values())}-{concept.name}.json"
            own = {"method": method, "concept": concept.name, **rates}
            known = next((run for run in measured if run.items() >= own.items()), None)
            if known is None and not file.exists():
                file.write_text(json.dumps(measure(base, concept, method, rates)))
            runs.append(known or json.loads(file.read_text()))
    for method, rates in wanted:
        own = [run["score"] for run in runs if run["method"] == method and run.items() >= rates.items()]
        scores = [score for score in own if score is not None]
        print(f"{method:<20} {rates}: {fmean(scores) if len(scores) == len(own) else 'diverged'}")
    (arguments.out / "results.json").write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
