"""`python -m bench.one_shot`: compare settings for learning from one photo with learning from all.

Two concepts that are in no table learn with each of SETTINGS and each seed. Identity and
the score of `training.selection` are those of held-out scenes against all photos of the concept, by EfficientNet-Lite1,
which no table reports. A run is kept in OUT/NAME-CONCEPT-SEED.json, so an interrupted comparison continues.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from opad_core import Base, load_base, override
from opad_core.__main__ import bases_folder
from opad_core.bases.captions import evaluation_scenes
from opad_core.evaluation.embedding import LITE1, embed, load_embedding
from opad_core.evaluation.report import reference_pictures
from opad_core.generation.bundle import ADAPTERS, Bundle, read_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.train import train
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.pixels import reference_pixels
from opad_core.tables.concepts import Concept, read_concept
from opad_core.tables.rows import ROWS, config_of
from opad_core.training.selection import SEEDS, HeldOutEvaluation

CONCEPTS = ("bench/concepts/sun_hat", "bench/concepts/black_cat")
ONE = {"max_references": 1}
PAIRED = {"canvas_probability": 0.5, "canvas_fill": "edge", "canvas_scale": (0.7, 1.0), "crop_scale": (1.0, 1.15)}
MIRRORED = {"flip_probability": 0.5}
SMOOTH = {"real_label": 0.9}
EARLY = {"iterations": 270, "collaborative_iterations": 160}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "all photos": {},
    "one photo": ONE,
    "augmentation": {**ONE, **PAIRED},
    "augmentation, its size in the prompt": {**ONE, **PAIRED, "size_words": True, "far_below": 0.9},
    "early samples": {**ONE, **EARLY},
    "regularized heads": {**ONE, **SMOOTH},
    "early samples, regularized heads": {**ONE, **EARLY, **SMOOTH},
    "augmentation, early samples": {**ONE, **PAIRED, **EARLY},
    "augmentation, early samples, regularized heads": {**ONE, **PAIRED, **EARLY, **SMOOTH},
    "mirrored": {**ONE, **MIRRORED},
    "shorter": {**ONE, "iterations": 200},
}


def identity(base: Base, bundle: Bundle | None, concept: Concept) -> float:
    """Return the mean cosine, by EfficientNet-Lite1, of images of the held-out scenes with all photos.

    Without a bundle, the images are the untouched student's.
    """
    scenes = evaluation_scenes(base, concept.references, concept.class_noun)
    name = concept.class_noun if bundle is None else PLACEHOLDER
    requests = [ImageRequest(bundle, scene.format(name), seed) for scene in scenes for seed in SEEDS]
    network = load_embedding(LITE1)
    images = embed(OneStepGenerator(base).generate(requests), network)
    return float((images @ embed(reference_pictures(base, concept.references), network).T).mean())


def measure(base: Base, concept: Concept, changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the held-out identity and score of one training."""
    config = override(config_of(ROWS["opad"], base.manifest), dict(changes))
    learned = train(
        base, concept.references, concept.class_noun, config, seed=seed,
        report=lambda progress: None, should_stop=lambda: False,
    )  # fmt: skip
    pixels = reference_pixels(concept.references, base.manifest.resolution, keep_aspect=True).to(base.device)
    scenes = evaluation_scenes(base, concept.references, concept.class_noun)
    evaluation = HeldOutEvaluation(base, pixels, concept.class_noun, scenes)
    bundle = read_bundle(learned, adapters=ADAPTERS)
    return {
        "concept": concept.name,
        "seed": seed,
        "identity": round(identity(base, bundle, concept), 4),
        "score": round(evaluation.score(bundle), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), help="what to compare")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS), help="folders of the concepts")
    parser.add_argument("--base", default="nano", help="name of a base or path of its folder")
    parser.add_argument("--out", type=Path, default=Path("build/one_shot"), help="folder of the runs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = load_base(arguments.base, bases=bases_folder())
    concepts = [read_concept(Path(folder)) for folder in arguments.concepts]
    runs = []
    wanted = [
        (seed, name, concept) for seed in range(arguments.seeds) for name in arguments.settings for concept in concepts
    ]
    for seed, name, concept in tqdm(wanted):
        file = arguments.out / f"{name}-{concept.name}-{seed}.json"
        if not file.exists():
            file.write_text(json.dumps({"settings": name, **measure(base, concept, SETTINGS[name], seed)}))
        runs.append(json.loads(file.read_text()))
    untouched = fmean(identity(base, None, concept) for concept in concepts)
    print(f"untouched student: identity {untouched:.4f}")
    for name in arguments.settings:
        own = [run for run in runs if run["settings"] == name]
        found = fmean(run["identity"] for run in own)
        print(f"{name:<50} {found:.4f} (gain {found - untouched:+.4f}) {fmean(run['score'] for run in own):.4f}")
    (arguments.out / "results.json").write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
