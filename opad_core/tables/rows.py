"""The rows of the tables: which method learns, with which settings, and in how many steps it generates."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opad_core.bases.manifest import Manifest
from opad_core.methods.opad.config import ABLATIONS, OpadConfig
from opad_core.methods.registry import method_config
from opad_core.networks.schedule import T_MAX
from opad_core.training.config import TrainingConfig, override

INFORMED = {"scene_captions": True, "lambda_kv_preservation": 1.0}
"""What OPAD's preset tells it on nano: captions name the photos' scenes, and other words keep their keys and values."""
PLAIN = {"scene_captions": False, "lambda_kv_preservation": 0.0}


@dataclass(frozen=True)
class Row:
    """One way to learn a concept. Its runs are named by `name`."""

    name: str
    label: str
    """As the tables print it."""
    method: str
    """A name of `opad_core.methods.registry.METHODS`, or "untouched"."""
    tables: tuple[str, ...]
    """Of the paper's supplement: "5" methods, "6" alternatives, "8" one-shot, "9" ablations."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[int, ...] = (1,)
    """Numbers of evaluations with which images are generated and scored."""
    equal: str = "iterations"
    """What the row has as much of as OPAD: iterations or seconds."""


UNTOUCHED = Row("untouched", "untouched student", "untouched", ("5",), steps=(1, 4, 25))
RIVALS = {
    "custom_diffusion": "Custom Diffusion",
    "textual_inversion": "Textual Inversion",
    "dreambooth": "DreamBooth",
    "lora": "LoRA",
    "textboost": "TextBoost",
    "disenbooth": "DisenBooth",
    "cones2": "Cones 2",
}
PARTS = {
    "no-teacher": "no teacher",
    "no-discriminators": "no discriminator",
    "no-dino": "no DINO discriminator",
    "no-dinov2": "no DINOv2 discriminator",
    "no-clip": "no CLIP discriminator",
    "no-id": "no L_id",
    "no-mse": "no L_mse",
    "no-swd": "no MS-SWD",
}
ALTERNATIVES = {"teacher-first": "teacher first", "no-shared-text-encoder": "no shared text encoder"}
WEIGHTS = (0.0, 0.02, 0.2, 1.0)
"""Weights of the adversarial losses that are compared."""


def _all_rows() -> list[Row]:
    rows = [
        UNTOUCHED,
        Row("opad", "OPAD", "opad", ("3", "5", "6", "8", "9", "adversarial"), steps=(1, 4, 25)),
        Row(
            "opad-distillation", "OPAD before the collaborative stage", "opad", ("3",), {"collaborative_iterations": 0}
        ),
    ]
    for method, label in RIVALS.items():
        is_first = method == "custom_diffusion"  # the paper trains it at all times, too, and the others at the last
        times, steps = ({}, (1, 4, 25)) if is_first else ({"timesteps": (T_MAX,)}, (1,))
        rows += [
            Row(f"{method}-informed", f"{label}, same information", method, ("5",), {**INFORMED, **times}, steps),
            Row(method, label, method, ("5",), {**PLAIN, **times}, steps),
        ]
    for chosen, name in (((T_MAX,), "1"), ((249, 499, 749, T_MAX), "4")):
        changes = {**INFORMED, "timesteps": chosen}
        label = f"Custom Diffusion, same information, {name} training time{'s' * (name != '1')}"
        rows.append(Row(f"custom_diffusion-times-{name}", label, "custom_diffusion", ("5",), changes, (1, 4)))
    label = "Custom Diffusion, same information and seconds"
    rows.append(Row("custom_diffusion-seconds", label, "custom_diffusion", ("5",), INFORMED, equal="seconds"))
    rows += [Row(name, label, "opad", ("9",), ABLATIONS[name]) for name, label in PARTS.items()]
    rows += [Row(name, label, "opad", ("6",), ABLATIONS[name]) for name, label in ALTERNATIVES.items()]
    rows.append(Row("one-shot", "one photo", "opad", ("8",), ABLATIONS["one-shot"]))
    rows += [
        Row(f"adversarial-{weight:g}", f"adversarial weight {weight:g}", "opad", ("adversarial",), {
            "lambda_adv": (weight, weight, weight)
        })
        for weight in WEIGHTS
    ]  # fmt: skip
    return rows


ROWS: Mapping[str, Row] = {row.name: row for row in _all_rows()}

SECONDS_PER_ITERATION: Mapping[str, Mapping[str, float]] = {"nano": {"opad": 0.473, "custom_diffusion": 0.121}}
"""By base: processor seconds of an iteration at a batch of 4, measured by `bench.compare` (docs/personalize.md: 203 and
52 s for 430 iterations). A row with equal seconds gets more iterations by their ratio."""


def config_of(row: Row, manifest: Manifest) -> TrainingConfig:
    """Return what a row trains with on a base: the method's own settings there, and as many iterations as OPAD."""
    opad = method_config("opad", manifest)
    assert isinstance(opad, OpadConfig)
    if row.method == "opad":
        return override(opad, dict(row.changes))
    iterations = opad.total_iterations
    if row.equal == "seconds":
        seconds = SECONDS_PER_ITERATION[manifest.name]
        iterations = round(iterations * seconds["opad"] / seconds[row.method])
    own = method_config(row.method, manifest)
    known = {one.name for one in dataclasses.fields(own)}
    changes = {name: value for name, value in row.changes.items() if name in known}
    return override(own, {**changes, "iterations": iterations, "batch_size": opad.batch_size})
