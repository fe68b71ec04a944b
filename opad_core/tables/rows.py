"""The rows of the tables: which method learns, with which settings, and in how many steps it generates."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from opad_core.bases.manifest import Manifest
from opad_core.errors import OpadError
from opad_core.generation.bundle import Network
from opad_core.methods.opad.config import OpadConfig, ablated
from opad_core.methods.registry import method_config
from opad_core.networks.schedule import T_MAX
from opad_core.training.config import TrainingConfig, override

INFORMED = {"scene_captions": True, "lambda_kv_preservation": 1.0}
"""What OPAD's preset tells it on nano: captions name the photos' scenes, and other words keep their keys and values."""
PLAIN = {"scene_captions": False, "lambda_kv_preservation": 0.0}
BEST_RATES: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "nano": {
        "opad": {"lr_student": 2.7e-2, "lr_teacher": 7.5e-2, "lr_token": 4.5e-2},
        "custom_diffusion": {"lr": 8e-2, "lr_token": 0.15},
    }
}
"""By base and method: the learning rates with the best score of `bench.learning_rates` with the same information, where
the method's own are others."""
TRIPLED = {"lr_student": 9e-3, "lr_teacher": 2.5e-2, "lr_token": 1.5e-2}
"""About three times OPAD's learning rates on nano, between those of its preset and the best."""

LONGER: Mapping[str, Mapping[str, float]] = {
    "nano": {
        "iterations": 39 / 23,
        "collaborative_iterations": 2,
        "lr_student": 0.5,
        "lr_teacher": 0.5,
        "lr_token": 0.5,
        "lambda_kv_preservation": 0.5,
    }
}
"""By base: how many times its preset's values all rows of OPAD have. They were run before nano's preset became shorter,
with 390 + 40 iterations and without an early end; rivals have as many iterations."""
SHORT = {
    "iterations": 230,
    "collaborative_iterations": 20,
    "lr_student": 6e-3,
    "lr_teacher": 1.6e-2,
    "lr_token": 1e-2,
    "lambda_kv_preservation": 2.0,
}
"""Nano's preset since December 2026 but for its early end: 58 % of the iterations at doubled rates."""

ONE_PHOTO = {"max_references": 1, "iterations": 270, "collaborative_iterations": 160, "real_label": 0.9}
"""Settings for one photo on nano, in as many iterations as for all: the student's own images early, and heads that are
less sure of real ones (docs/one-photo.md)."""


@dataclass(frozen=True)
class Stage:
    """A network as it is at the end of a stage of OPAD, which the same run also scores."""

    name: str
    label: str
    network: Network
    """The teacher generates in 25 steps."""
    ends: Literal["teacher alone", "distillation", "training"]
    tables: tuple[str, ...]

    def last_iteration(self, config: OpadConfig) -> int:
        """Return the number of iterations of a training up to the end of the stage."""
        ends = {"teacher alone": config.iterations, "distillation": config.distillation_iterations}
        return ends.get(self.ends, config.total_iterations)


@dataclass(frozen=True)
class Row:
    """One way to learn a concept. Its runs are named by `name`."""

    name: str
    label: str
    """As the tables print it."""
    method: str
    """A name of `opad_core.methods.registry.METHODS`, or "untouched"."""
    tables: tuple[str, ...]
    """Of the paper's supplement: "5" methods, "6" alternatives, "8" one-shot, "9" ablations. Of the paper: "3" the
    collaborative stage."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[int, ...] = (1,)
    """Numbers of evaluations with which the student's images are generated and scored."""
    ablation: str | None = None
    """The part of OPAD that the row leaves out, of `opad_core.methods.opad.config.ABLATIONS`."""
    stages: tuple[Stage, ...] = ()
    equal: str = "iterations"
    """What the row has as much of as OPAD: iterations or seconds."""
    rates: Literal["best", "own"] = "best"
    """Learning rates of a rival: BEST_RATES, or the method's own on the base."""
    only_on: str | None = None
    """The base that its settings are for; None: any."""


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
GENTLE: Mapping[str, Mapping[str, float]] = {
    "custom_diffusion": {},  # its own are gentle
    "dreambooth": {"lr": 2e-5},
    "lora": {"lr": 1e-3, "lr_token": 1.5e-3},
}
"""Learning rates for nano below the best of `bench.learning_rates`, with which a method keeps more of the scene."""
WEIGHTS = (0.0, 0.02, 0.2, 1.0)
"""Weights of the adversarial losses that are compared."""
COLLABORATION = (
    Stage("before", "student before the collaborative stage", "student", "distillation", ("3",)),
    Stage("teacher-before", "teacher before the collaborative stage, 25 steps", "teacher", "distillation", ("3",)),
    Stage("teacher", "teacher after the collaborative stage, 25 steps", "teacher", "training", ("3",)),
)
TEACHER_ALONE = Stage(
    "teacher-alone", "Custom Diffusion, same information, on the teacher, 25 steps", "teacher", "teacher alone", ("5",)
)
"""OPAD's teacher learns as Custom Diffusion does, and in "teacher first" it does so alone."""


def _all_rows() -> list[Row]:
    rows = [
        UNTOUCHED,
        Row("opad", "OPAD", "opad", ("3", "5", "6", "8", "9", "adversarial"), steps=(1, 4, 25), stages=COLLABORATION),
        Row("opad-short", "OPAD in 250 iterations", "opad", ("5",), SHORT, only_on="nano"),
        Row("opad-tripled", "OPAD, tripled learning rates", "opad", ("5",), TRIPLED, only_on="nano"),
        Row("opad-best", "OPAD, best learning rates", "opad", ("5",), BEST_RATES["nano"]["opad"], only_on="nano"),
    ]
    for method, label in RIVALS.items():
        is_first = method == "custom_diffusion"  # the paper trains it at all times, too, and the others at the last
        times: dict[str, Any] = {} if is_first else {"timesteps": (T_MAX,)}
        steps = (1, 4, 25) if is_first else (1,)
        rows += [
            Row(f"{method}-informed", f"{label}, same information", method, ("5",), {**INFORMED, **times}, steps),
            Row(method, label, method, ("5",), {**PLAIN, **times}, steps, rates="own"),
        ]
        if method in GENTLE:
            name, told = f"{method}-gentle", f"{label}, same information, gentle"
            changes = {**INFORMED, **times, **GENTLE[method]}
            rows.append(Row(name, told, method, ("5",), changes, rates="own", only_on="nano"))
    for chosen, name in (((T_MAX,), "1"), ((249, 499, 749, T_MAX), "4")):
        changes = {**INFORMED, "timesteps": chosen}
        label = f"Custom Diffusion, same information, {name} training time{'s' * (name != '1')}"
        rows.append(Row(f"custom_diffusion-times-{name}", label, "custom_diffusion", ("5",), changes, (1, 4)))
    label = "Custom Diffusion, same information and seconds"
    rows.append(
        Row("custom_diffusion-seconds", label, "custom_diffusion", ("5",), INFORMED, equal="seconds", rates="own")
    )
    rows += [Row(name, label, "opad", ("9",), ablation=name) for name, label in PARTS.items()]
    for name, label in ALTERNATIVES.items():
        stages = (TEACHER_ALONE,) if name == "teacher-first" else ()
        rows.append(Row(name, label, "opad", ("6",), ablation=name, stages=stages))
    rows.append(Row("one-shot", "one photo", "opad", ("8",), ablation="one-shot"))
    label = "one photo, early samples and regularized heads"
    rows.append(Row("one-photo-settings", label, "opad", ("8",), ONE_PHOTO, only_on="nano"))
    for weight in WEIGHTS:
        changes = {"lambda_adv": (weight, weight, weight)}
        rows.append(Row(f"adversarial-{weight:g}", f"adversarial weight {weight:g}", "opad", ("adversarial",), changes))
    return rows


ROWS: Mapping[str, Row] = {row.name: row for row in _all_rows()}

SECONDS_PER_ITERATION: Mapping[str, Mapping[str, float]] = {"nano": {"opad": 0.727, "custom_diffusion": 0.37}}
"""By base: processor seconds of an iteration of OPAD and of the row "same information", in turns in one process with
one thread on an idle machine, medians of 4 times 8 iterations. A row with equal seconds gets more iterations by their
ratio."""


def config_of(row: Row, manifest: Manifest) -> TrainingConfig:
    """Return what a row trains with on a base: the method's own settings there, and as many iterations as OPAD.

    Raises OpadError for a row of another base, and for one with equal seconds where no seconds were measured.
    """
    if row.only_on not in (None, manifest.name):
        raise OpadError(f"the row {row.name} is for the base {row.only_on!r} alone")
    preset = method_config("opad", manifest)
    assert isinstance(preset, OpadConfig)
    opad = _lengthened(preset, LONGER.get(manifest.name, {}))
    if row.method == "opad":
        return override(ablated(opad, row.ablation), dict(row.changes))
    iterations = opad.total_iterations
    if row.equal == "seconds":
        seconds = SECONDS_PER_ITERATION.get(manifest.name)
        if seconds is None:
            raise OpadError(f"how long an iteration takes on {manifest.name!r} was not measured; leave out {row.name}")
        iterations = round(iterations * seconds["opad"] / seconds[row.method])
    own = method_config(row.method, manifest)
    known = {one.name for one in dataclasses.fields(own)}
    rates = BEST_RATES.get(manifest.name, {}).get(row.method, {}) if row.rates == "best" else {}
    changes = {name: value for name, value in row.changes.items() if name in known}
    return override(own, {**rates, **changes, "iterations": iterations, "batch_size": opad.batch_size})


def _lengthened(preset: OpadConfig, times: Mapping[str, float]) -> OpadConfig:
    if not times:
        return preset
    values = {name: getattr(preset, name) for name in times}
    longer = {name: type(value)(round(value * times[name], 9)) for name, value in values.items()}
    return override(preset, {**longer, "eval_every": 0, "patience": 0, "min_gain": 0.0})


def settings_of(row: Row, manifest: Manifest) -> dict[str, Any]:
    """Return what a row trains with on a base as plain data; nothing for the untouched student."""
    if row.method == "untouched":
        return {}
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config_of(row, manifest))))
    return settings


def rows_on(manifest: Manifest) -> list[Row]:
    """Return the rows that a base can have: not those of another base, or with equal seconds that were not measured."""
    return [
        row
        for row in ROWS.values()
        if row.only_on in (None, manifest.name)
        and (row.equal == "iterations" or manifest.name in SECONDS_PER_ITERATION)
    ]


def learned_by(manifest: Manifest) -> dict[str, str]:
    """Return, by row, the row whose runs are its own, too: the first one with the same method and the same settings."""
    first: dict[Any, str] = {}
    return {
        row.name: first.setdefault((row.method, row.method != "untouched" and config_of(row, manifest)), row.name)
        for row in rows_on(manifest)
    }
