"""`python bench/ablate.py`: measure each change of the preset `default`, and compare `default` with `paper`.

Every run learns one concept with one seed and one setting. Every `SCORED_EVERY` iterations it generates held-out scenes
and scores them. The time of a run is processor time without this scoring, so that a busy machine gives the same result.
The run ends with the report card. If a setting gains identity by copying the references' backgrounds, the column of the
scenes shows it. A switch is the preset with some fields as published. A run is kept in OUT/SETTING-CONCEPT-SEED.json,
so an interrupted benchmark continues with the next run.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from PIL import Image
from tqdm import tqdm

from opad_core import (
    Base,
    ImageRequest,
    OneStepGenerator,
    OpadConfig,
    held_out_scenes,
    identity_score,
    load_base,
    override,
    preset,
    read_bundle,
    read_references,
    report_card,
)
from opad_core.__main__ import bases_folder
from opad_core.methods.train import new_training
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.training.loop import Training

SCORED_EVERY = 50
SCENES, SEEDS = 8, 2
SWITCHES: dict[str, tuple[str, ...]] = {
    "scene_captions": ("scene_captions", "templates"),
    "scene_share": ("scene_share",),
    "normalize_backbones": ("normalize_backbones",),
    "discriminator_resize": ("discriminator_resize",),
    "swd_unit_range": ("swd_unit_range",),
    "ema_decay": ("ema_decay",),
    "lr_decay": ("lr_decay",),
    "lambda_kv_preservation": ("lambda_kv_preservation",),
    "lambda_adv": ("lambda_adv",),
    "target": ("target_weight", "target_timestep_range", "teacher_timestep_range"),
    "guidance": ("guidance",),
    "collaboration": ("collaboration",),
    "flips": ("flip_probability",),
    "augmentation_cache": ("augmentation_cache",),
    "reuse_features": ("reuse_features",),
    "eval_every": ("eval_every", "patience"),
}
"""Fields that get the published values, by the name of the switch."""


def settings_of(base: Base) -> dict[str, OpadConfig]:
    """Return all settings by name, with the iterations of `default`."""
    default = preset("default", base.manifest.presets)
    published = OpadConfig()
    paper = override(
        preset("paper", base.manifest.presets),
        {"iterations": default.iterations, "collaborative_iterations": default.collaborative_iterations},
    )
    switched = {
        f"without-{name}": override(default, {field: getattr(published, field) for field in fields})
        for name, fields in SWITCHES.items()
    }
    crop = override(default, {"decode_crop": 0.5})
    return {"default": default, "paper": paper, "with-decode_crop": crop, **switched}


def learn(base: Base, folder: Path, config: OpadConfig, *, seed: int, label: str) -> dict[str, Any]:
    """Run one training; return identity by iterations and seconds, and the final scores."""
    references, noun = read_references(folder), (folder / "class.txt").read_text().strip()
    training = new_training(base, references, noun, config, seed=seed)
    scenes = held_out_scenes(base, references, noun)[:SCENES]
    curve, seconds = [], 0.0
    for step in tqdm(range(config.total_iterations), desc=label, mininterval=5):
        began = time.process_time()
        training.iterate()
        if training.evaluation_is_due:
            training.evaluate()
        seconds += time.process_time() - began
        if (step + 1) % SCORED_EVERY == 0 or step + 1 == config.total_iterations:
            images = generate(base, training, scenes)
            curve.append((step + 1, round(seconds, 1), round(identity_score(images, references), 4)))
    scores = report_card(read_bundle(training.bundle(training.best)), base, references).personalised
    return {"curve": curve, "seconds": curve[-1][1], **asdict(scores)}


def generate(base: Base, training: Training, scenes: list[str]) -> list[Image.Image]:
    bundle = read_bundle(training.bundle())
    requests = [ImageRequest(bundle, scene.format(PLACEHOLDER), seed) for scene in scenes for seed in range(SEEDS)]
    return [Image.fromarray(pixels) for pixels in OneStepGenerator(base).generate(requests)]


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return a Markdown table with one line per setting: mean scores and seconds of processor time.

    The difference of the identity from `default` is taken on the same runs, with its standard error.
    """
    lines = ["| setting | runs | identity | against default | scenes | diversity | seconds |", "|---|" + "---|" * 6]
    default_identity = {(run["concept"], run["seed"]): run["identity"] for run in results.get("default", [])}
    for name, runs in results.items():
        by = [
            run["identity"] - default_identity[key]
            for run in runs
            if (key := (run["concept"], run["seed"])) in default_identity
        ]
        error = f" ± {stdev(by) / len(by) ** 0.5:.3f}" if len(by) > 1 else ""
        means = {key: fmean(run[key] for run in runs) for key in ("identity", "scene_accuracy", "diversity", "seconds")}
        lines.append(
            f"| {name} | {len(runs)} | {means['identity']:.3f} | {f'{fmean(by):+.3f}{error}' if by else ''} | "
            f"{means['scene_accuracy']:.2f} | {means['diversity']:.3f} | {means['seconds']:.0f} |"
        )
    return "\n".join(lines)


def race(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """Return a line per concept: the share of `paper`'s time after which `default` has `paper`'s final identity.

    Curves are means over seeds.
    """
    lines = []
    for concept in dict.fromkeys(run["concept"] for run in ours):
        curve, goal_curve = (
            [
                tuple(map(fmean, zip(*points, strict=True)))
                for points in zip(*(run["curve"] for run in runs if run["concept"] == concept), strict=True)
            ]
            for runs in (ours, theirs)
        )
        _, whole, goal = goal_curve[-1]
        reached = next((seconds for _, seconds, identity in curve if identity >= goal), None)
        lines.append(
            f"{concept}: paper ends at {goal:.3f} after {whole:.0f} s; default "
            + (f"reaches it after {reached:.0f} s ({reached / whole:.2f})" if reached else "does not reach it")
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--concepts", type=Path, nargs="+", default=[Path("examples/striped_mug")], help="folders of photos"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each concept, from 0")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=JSON", help="change a field of every setting"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="SETTING", help="for instance: default paper without-augmentation_cache"
    )
    parser.add_argument("--base", default="nano", help="name of a base or path of its folder")
    parser.add_argument("--out", type=Path, default=Path("build/ablate"), help="folder of the runs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = load_base(arguments.base, bases=bases_folder())
    results: dict[str, list[dict[str, Any]]] = {}
    changes = {name: json.loads(value) for name, value in (text.split("=", 1) for text in arguments.set)}
    for name, setting in settings_of(base).items():
        config = override(setting, changes)
        if arguments.only and name not in arguments.only:
            continue
        for folder in arguments.concepts:
            for seed in range(arguments.seeds):
                kept = arguments.out / f"{name}-{folder.name}-{seed}.json"
                if not kept.exists():
                    run = learn(base, folder, config, seed=seed, label=f"{name} {folder.name} {seed}")
                    kept.write_text(json.dumps({"setting": name, "concept": folder.name, "seed": seed, **run}))
                results.setdefault(name, []).append(json.loads(kept.read_text()))
        print(table(results), flush=True)
        if name == "paper" and "default" in results:
            print(race(results["default"], results["paper"]), flush=True)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
