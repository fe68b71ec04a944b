"""`python -m bench.one_shot`: compare settings for learning from one photo with learning from all.

Two concepts that are in no table learn with each of SETTINGS and each seed. Identity and
the score of `training.selection` are those of held-out scenes against all photos of the concept, by EfficientNet-Lite1,
which no table reports. A run is kept in OUT/NAME-CONCEPT-SEED.json, so an interrupted comparison continues.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
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
from opad_core.tables.rows import ONE_PHOTO, ROWS, config_of
from opad_core.training.selection import SEEDS, HeldOutEvaluation

CONCEPTS = ("bench/concepts/sun_hat", "bench/concepts/black_cat")
ONE = {"max_references": 1}
PAIRED = {"canvas_probability": 0.5, "canvas_fill": "edge", "canvas_scale": (0.7, 1.0), "crop_scale": (1.0, 1.15)}
EARLY = {name: ONE_PHOTO[name] for name in ("iterations", "collaborative_iterations")}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "all photos": {},
    "one photo": ONE,
    "regularized heads": {**ONE, "real_label": ONE_PHOTO["real_label"]},
    "early samples": {**ONE, **EARLY},
    "early samples, regularized heads": ONE_PHOTO,
    "200 + 40 iterations": {**ONE, "iterations": 200},
    "mirrored": {**ONE, "flip_probability": 0.5},
    "augmentation, its size in the prompt": {**ONE, **PAIRED, "size_words": True, "far_below": 0.9},
    "augmentation": {**ONE, **PAIRED},
    "augmentation, early samples": {**ONE, **PAIRED, **EARLY},
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
        "untouched": round(identity(base, None, concept), 4),
        "score": round(evaluation.score(bundle), 4),
    }


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return a line of Markdown for each of SETTINGS that has runs.

    Identity and gain are shares of those from all photos, with the same concepts and seeds.
    """
    few = {(run["concept"], run["seed"]): run["identity"] for run in runs if run["settings"] == "all photos"}
    lines = []
    for name in SETTINGS:
        own = [run for run in runs if run["settings"] == name]
        if not own:
            continue
        found, untouched, score = (fmean(run[key] for run in own) for key in ("identity", "untouched", "score"))
        best = fmean(few[run["concept"], run["seed"]] for run in own)
        shares = f"{found / best:.2f} | {(found - untouched) / (best - untouched):.2f}"
        lines.append(f"| {name} | {len(own)} | {found:.3f} | {shares} | {score:.3f} |")
    return "\n".join(lines)


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
    names = dict.fromkeys(["all photos", *arguments.settings])
    wanted = [(seed, name, concept) for seed in range(arguments.seeds) for name in names for concept in concepts]
    for seed, name, concept in tqdm(wanted):
        file = arguments.out / f"{name}-{concept.name}-{seed}.json"
        if not file.exists():
            file.write_text(json.dumps({"settings": name, **measure(base, concept, SETTINGS[name], seed)}))
        runs.append(json.loads(file.read_text()))
    print(table(runs))
    (arguments.out / "results.json").write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
