"""`python -m bench.compare`: compare OPAD with Custom Diffusion, with several seeds.

Five ways to learn a concept on the one-step student: OPAD by the preset, OPAD without discriminators, and three
versions of Custom Diffusion with OPAD's batch size, learning rates and iterations. "custom-diffusion" is complete, with
its own prompts, augmentation and class images. "custom-diffusion-stripped" has OPAD's prompts without scenes, and no
class images. "custom-diffusion-informed" adds OPAD's captions and preservation of other words' keys and values.

Each run ends with the report card, whose prompts name scenes that no reference and no training prompt shows. A run is
kept in OUT/METHOD-CONCEPT-SEED.json, so an interrupted benchmark continues with the next run.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from PIL import Image
from tqdm import tqdm

from opad_core import (
    Base,
    Bundle,
    CustomDiffusionConfig,
    OpadConfig,
    load_base,
    override,
    preset,
    read_bundle,
    read_references,
    report_card,
    train,
)
from opad_core.__main__ import bases_folder
from opad_core.methods.opad.config import ablated
from opad_core.training.config import TrainingConfig

CONCEPTS = ("striped_mug", "blue_teapot", "orange_robot", "dotted_backpack")
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 8: 2.36, 12: 2.20}
"""Student's t for a 95 % interval of a mean, by number of values."""


def custom_diffusion(config: OpadConfig) -> CustomDiffusionConfig:
    """Return the published setting with OPAD's batch size, learning rates and iterations."""
    stripped = custom_diffusion_stripped(config)
    published = CustomDiffusionConfig()
    own = ("templates", "class_images", "class_prompt", "lambda_prior", "flip_probability", "canvas_probability")
    return override(stripped, {name: getattr(published, name) for name in (*own, "canvas_scale", "crop_scale")})


def custom_diffusion_stripped(config: OpadConfig) -> CustomDiffusionConfig:
    """Return L_rec on the references alone, with OPAD's prompts without scenes."""
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(TrainingConfig)}
    changes = {
        "iterations": config.total_iterations, "lr": config.lr_teacher, "lr_token": config.lr_token, "ema_decay": 0.0,
        "scene_captions": False, "class_images": 0,
    }  # fmt: skip
    return CustomDiffusionConfig(**{**shared, **changes})


def custom_diffusion_informed(config: OpadConfig) -> CustomDiffusionConfig:
    """Return the stripped config with OPAD's captions and its preservation of other words' keys and values."""
    told = ("scene_captions", "lambda_kv_preservation")
    return override(custom_diffusion_stripped(config), {name: getattr(config, name) for name in told})


METHODS: dict[str, Callable[[OpadConfig], TrainingConfig]] = {
    "opad": lambda config: config,
    "opad-no-discriminators": lambda config: ablated(config, "no-discriminators"),
    "custom-diffusion": custom_diffusion,
    "custom-diffusion-informed": custom_diffusion_informed,
    "custom-diffusion-stripped": custom_diffusion_stripped,
}
"""Functions that make each method's config from OPAD's."""


def learn(base: Base, references: list[Image.Image], noun: str, config: TrainingConfig, *, seed: int = 0) -> Bundle:
    bar = tqdm(total=config.total_iterations, mininterval=10)
    data = train(
        base, references, noun, config, seed=seed,
        report=lambda progress: bar.update(progress.step - bar.n), should_stop=lambda: False,
    )  # fmt: skip
    bar.close()
    return read_bundle(data)


def measure(base: Base, folder: Path, method: str, changes: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """Return the scores of the untouched student and of the concept, and the processor seconds of one run."""
    references, noun = read_references(folder), (folder / "class.txt").read_text().strip()
    config = METHODS[method](override(preset("default", base.manifest.presets), changes))
    began = time.process_time()
    bundle = learn(base, references, noun, config, seed=seed)
    seconds = time.process_time() - began
    card = report_card(bundle, base, references)
    return {
        "method": method, "concept": folder.name, "seed": seed, "seconds": round(seconds),
        "untouched": asdict(card.untouched), "personalised": asdict(card.personalised),
    }  # fmt: skip


def interval(values: list[float]) -> str:
    """Format a mean with the half width of its 95 % interval (Student's t); empty without values."""
    if not values:
        return ""
    if len(values) not in T_95:
        return f"{fmean(values):.3f}"
    return f"{fmean(values):.3f} ± {T_95[len(values)] * stdev(values) / len(values) ** 0.5:.3f}"


def table(runs: list[dict[str, Any]]) -> str:
    """Return a Markdown table of identity / scene accuracy by concept, mean over seeds, and means over concepts.

    The difference from `opad` is taken by concept, averaged over its seeds, so the interval is over concepts.
    """
    concepts = list(dict.fromkeys(run["concept"] for run in runs))
    lines = [
        "| method | " + " | ".join(concepts) + " | identity | against opad | scene | seconds |",
        "|---|" + "---|" * (len(concepts) + 4),
    ]

    def mean(method: str, concept: str, score: str) -> float | None:
        values = [r["personalised"][score] for r in runs if (r["method"], r["concept"]) == (method, concept)]
        return fmean(values) if values else None

    for method in METHODS:
        own = [run for run in runs if run["method"] == method]
        if not own:
            continue
        cells, differences = [], []
        for concept in concepts:
            identity, scene = (mean(method, concept, score) for score in ("identity", "scene_accuracy"))
            cells.append("" if identity is None else f"{identity:.3f} / {scene:.2f}")
            ours = mean("opad", concept, "identity")
            if identity is not None and ours is not None:
                differences.append(identity - ours)
        lines.append(
            f"| {method} | {' | '.join(cells)} | {fmean(r['personalised']['identity'] for r in own):.3f} | "
            f"{'' if method == 'opad' else interval(differences)} | "
            f"{fmean(r['personalised']['scene_accuracy'] for r in own):.2f} | {fmean(r['seconds'] for r in own):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS), metavar="NAME", help="folders of examples/")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="methods to compare")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each concept, from 0")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=JSON", help="change a setting of all methods"
    )
    parser.add_argument("--base", default="nano", help="name of a base or path of its folder")
    parser.add_argument("--out", type=Path, default=Path("build/compare"), help="folder of the runs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = load_base(arguments.base, bases=bases_folder())
    changes = {name: json.loads(value) for name, value in (text.split("=", 1) for text in arguments.set)}
    runs = []
    for seed in range(arguments.seeds):
        for method in arguments.methods:
            for concept in arguments.concepts:
                kept = arguments.out / f"{method}-{concept}-{seed}.json"
                if not kept.exists():
                    run = measure(base, Path("examples") / concept, method, changes, seed=seed)
                    kept.write_text(json.dumps(run))
                runs.append(json.loads(kept.read_text()))
        print(table(runs), flush=True)
    (arguments.out / "results.json").write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
