"""`python -m bench.early_stop`: when may a training stop? Simulates rules on recorded score curves.

Every run learns one concept with one seed and one setting to its planned end. Every `RECORDED_EVERY` iterations it
records the score on held-out scenes, from which a rule decides, and the report card's identity and scene accuracy of
the same averaged adapter, which a training that stopped there would have. A rule (`eval_every`, `patience`, `min_gain`)
is then applied to the recorded curves, so that all rules are compared on the same runs.

A run is kept in OUT/SETTING-CONCEPT-SEED.json, so an interrupted benchmark continues with the next run. `--jobs 2`
trains two runs at a time, with one thread each.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from PIL import Image

from opad_core import Base, Bundle, load_base, override, preset, read_bundle, read_references, report_card
from opad_core.__main__ import bases_folder
from opad_core.methods.train import new_training
from opad_core.training.selection import is_learned

RECORDED_EVERY = 30
FULL = "default"
"""The setting whose whole training is the one to equal."""
RULES = [
    (every, patience, gain) for every, patience in ((30, 2), (30, 3), (60, 1)) for gain in (0.002, 0.004, 0.006, 0.008)
]
"""`eval_every`, `patience`, `min_gain`."""
MAX_LOSS = {"identity": 0.01, "scenes": 0.03}
"""A rule costs no score if the 95 % interval of the loss stays below."""
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26, 11: 2.23, 12: 2.20}
"""Student's t for a 95 % interval of a mean, by number of values."""

Run = dict[str, Any]
"""`setting`, `concept`, `seed`, `seconds` of processor time, `evaluation_seconds` of them, and `points`: iteration,
held-out score, identity and scene accuracy."""


def learn(base: Base, folder: Path, changes: dict[str, Any], *, seed: int) -> Run:
    """Run one whole training and record its curve. The seconds are processor time without the report cards."""
    references, noun = read_references(folder), (folder / "class.txt").read_text().strip()
    config = override(
        preset("default", base.manifest.presets), {**changes, "eval_every": RECORDED_EVERY, "patience": 0}
    )
    training = new_training(base, references, noun, config, seed=seed)
    began = time.process_time()
    training.method.prepare()
    seconds, evaluations = time.process_time() - began, 0.0
    points = []
    for _ in range(config.total_iterations):
        began = time.process_time()
        training.iterate()
        seconds += time.process_time() - began
        if training.evaluation_is_due:
            began = time.process_time()
            training.evaluate()
            evaluations += time.process_time() - began
            points.append((training.step, training.scores[-1], *card(read_bundle(training.bundle()), base, references)))
    return {"seconds": seconds + evaluations, "evaluation_seconds": evaluations, "points": points}


def card(bundle: Bundle, base: Base, references: list[Image.Image]) -> tuple[float, float]:
    """Return identity and scene accuracy of the report card."""
    scores = report_card(bundle, base, references).personalised
    assert scores.scene_accuracy is not None
    return scores.identity, scores.scene_accuracy


def stopped(
    points: Sequence[Sequence[float]], *, every: int, patience: int, min_gain: float
) -> tuple[int, list[float]]:
    """Return the iteration at which a rule stops, and the point that it keeps: the one with the best score so far."""
    seen: list[Sequence[float]] = []
    for point in points:
        if point[0] % every and point is not points[-1]:
            continue
        seen.append(point)
        if is_learned([score for _, score, _, _ in seen], patience=patience, min_gain=min_gain):
            break
    return int(seen[-1][0]), list(max(seen, key=lambda point: point[1]))


def agreement(runs: Sequence[Run]) -> float:
    """Return the mean correlation, over runs, of the held-out score with identity plus scene accuracy."""
    correlations = []
    for run in runs:
        held_out = torch.tensor([point[1] for point in run["points"]])
        reported = torch.tensor([point[2] + point[3] for point in run["points"]])
        correlations.append(float(torch.corrcoef(torch.stack([held_out, reported]))[0, 1]))
    return fmean(correlations)


def table(runs: Sequence[Run]) -> str:
    """Return a Markdown table: what each rule saves and costs, against the last iteration of FULL's same runs."""
    ends = {(run["concept"], run["seed"]): run["points"][-1] for run in runs if run["setting"] == FULL}
    lines = [
        "| setting | `eval_every` | `patience` | `min_gain` | runs | stops at | iterations saved | identity | scenes | "
        "costs no score |",
        "|---|" + "---|" * 9,
    ]
    for setting in dict.fromkeys(run["setting"] for run in runs):
        chosen = [run for run in runs if run["setting"] == setting and (run["concept"], run["seed"]) in ends]
        for every, patience, min_gain in [(0, 0, 0.0), *RULES]:
            stops, identity, scenes, saved = [], [], [], []
            for run in chosen:
                end = ends[run["concept"], run["seed"]]
                step, kept = int(run["points"][-1][0]), run["points"][-1]
                if patience:
                    step, kept = stopped(run["points"], every=every, patience=patience, min_gain=min_gain)
                stops.append(step)
                saved.append(1 - step / end[0])
                identity.append(kept[2] - end[2])
                scenes.append(kept[3] - end[3])
            equal = all(
                low(by) > -MAX_LOSS[name] for name, by in (("identity", identity), ("scenes", scenes)) if len(by) > 1
            )
            lines.append(
                f"| {setting} | {every or ''} | {patience or ''} | {min_gain or ''} | {len(chosen)} | "
                f"{fmean(stops):.0f} ({min(stops)}-{max(stops)}) | {fmean(saved):.0%} | {interval(identity)} | "
                f"{interval(scenes)} | {'yes' if equal and len(chosen) > 1 else 'not shown'} |"
            )
    return "\n".join(lines)


def half_width(values: Sequence[float]) -> float:
    """Return half the width of the 95 % interval of the mean; t of 12 values also stands for more."""
    return T_95.get(len(values), T_95[12]) * stdev(values) / len(values) ** 0.5


def low(values: Sequence[float]) -> float:
    return fmean(values) - half_width(values)


def interval(values: Sequence[float]) -> str:
    return f"{fmean(values):+.4f}" + (f" ± {half_width(values):.4f}" if len(values) > 1 else "")


@cache
def _base(name: str) -> Base:
    torch.set_num_threads(1)
    return load_base(name, bases=bases_folder(), device="cpu")


def _run(base: str, setting: str, changes: dict[str, Any], folder: Path, seed: int, kept: Path) -> str:
    if not kept.exists():
        run = learn(_base(base), folder, changes, seed=seed)
        text = json.dumps({"setting": setting, "concept": folder.name, "seed": seed, **run})
        kept.with_suffix(".new").write_text(text)
        os.replace(kept.with_suffix(".new"), kept)
    return kept.read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concepts", type=Path, nargs="+", default=[Path("examples/striped_mug")], help="folders")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of each concept")
    parser.add_argument(
        "--settings", type=json.loads, default={FULL: {}}, metavar="JSON",
        help='changes of `default` by a name of yours, such as {"default": {}, "no decay": {"lr_decay": 0}}',
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--base", default="nano", help="name of a base or path of its folder")
    parser.add_argument("--out", type=Path, default=Path("build/early_stop"), help="folder of the runs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    planned = [
        (arguments.base, name, changes, folder, seed, arguments.out / f"{name}-{folder.name}-{seed}.json")
        for seed, folder, (name, changes) in product(arguments.seeds, arguments.concepts, arguments.settings.items())
    ]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        runs = [json.loads(text) for text in pool.map(_run, *zip(*planned, strict=True))]
    print(table(runs))
    for name in arguments.settings:
        print(f"{name}: correlation {agreement([run for run in runs if run['setting'] == name]):.2f}")


if __name__ == "__main__":
    main()
