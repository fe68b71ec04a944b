"""Which rows a base has, and what they learn with."""

import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest

from opad_core.bases.loading import SHIPPED
from opad_core.bases.manifest import read_manifest
from opad_core.errors import OpadError
from opad_core.methods.registry import method_config
from opad_core.tables.rows import RIVALS, ROWS, config_of, rows_on


@pytest.fixture(scope="module")
def nano():
    return read_manifest(SHIPPED)


def test_a_row_of_equal_seconds_has_more_iterations_of_the_shorter_kind(nano):
    # 430 iterations of OPAD at 0.727 s are 845 at 0.37 s
    assert config_of(ROWS["custom_diffusion-seconds"], nano).iterations == 845
    assert config_of(ROWS["custom_diffusion-informed"], nano).iterations == 430


def test_the_short_row_is_the_preset_without_its_early_end(nano):
    short, compared = (config_of(ROWS[name], nano) for name in ("opad-short", "opad"))
    to_the_end = {"eval_every": 0, "patience": 0, "min_gain": 0.0}
    assert dataclasses.replace(method_config("opad", nano), **to_the_end) == short
    assert (short.total_iterations, compared.total_iterations) == (250, 430)
    names = ("lr_student", "lr_teacher", "lr_token", "lambda_kv_preservation")
    doubled = {name: 2 * getattr(compared, name) for name in names}
    assert dataclasses.replace(compared, **doubled, iterations=230, collaborative_iterations=20) == short


def test_the_row_of_equal_seconds_has_the_gentle_rates(nano):
    gentle, seconds = (config_of(ROWS[f"custom_diffusion-{name}"], nano) for name in ("gentle", "seconds"))
    assert dataclasses.replace(gentle, iterations=845) == seconds


def test_rows_with_measurements_or_settings_of_nano_are_on_nano_alone(nano):
    other = dataclasses.replace(nano, name="sd-turbo", presets={})
    assert {row.name for row in rows_on(nano)} == set(ROWS)
    gentle = {"custom_diffusion-gentle", "dreambooth-gentle", "lora-gentle"}
    without = gentle | {"opad-short", "opad-tripled", "opad-best", "custom_diffusion-seconds", "one-photo-settings"}
    assert set(ROWS) - {row.name for row in rows_on(other)} == without
    for name, sentence in (("seconds", "was not measured"), ("gentle", "is for the base 'nano' alone")):
        with pytest.raises(OpadError, match=sentence):
            config_of(ROWS[f"custom_diffusion-{name}"], other)


@pytest.mark.parametrize("row", ["opad-best", *(f"{method}-informed" for method in RIVALS), "custom_diffusion"])
def test_a_row_has_the_learning_rates_of_the_best_score_on_nano(nano, row):
    scores = defaultdict(list)
    for run in json.loads(Path("bench/learning_rates.json").read_text()):
        if run["row"] == row.removesuffix("-best"):
            rates = {name: rate for name, rate in run.items() if name.startswith("lr")}
            scores[tuple(rates.items())].append(run["score"] or 0)
    config = config_of(ROWS[row], nano)
    mine = next(rates for rates in scores if all(getattr(config, name) == rate for name, rate in rates))
    best = max(fmean(found) for found in scores.values())
    assert fmean(scores[mine]) > best - 0.0005  # Textual Inversion's are equal to three digits


@pytest.mark.parametrize(
    ("method", "gentle", "usual"),
    [("custom_diffusion", 0.008, 0.08), ("dreambooth", 2e-5, 2.5e-3), ("lora", 0.001, 0.016)],
)
def test_a_gentle_row_differs_in_its_learning_rates_alone(nano, method, gentle, usual):
    slow, fast = (config_of(ROWS[f"{method}-{kind}"], nano) for kind in ("gentle", "informed"))
    assert (slow.lr, fast.lr) == (gentle, usual)
    assert dataclasses.replace(slow, lr=fast.lr, lr_token=fast.lr_token) == fast


def test_the_settings_for_one_photo_have_the_iterations_of_all_photos(nano):
    one, plain, opad = (config_of(ROWS[name], nano) for name in ("one-photo-settings", "one-shot", "opad"))
    assert one.total_iterations == plain.total_iterations == opad.total_iterations
    assert (one.max_references, one.collaborative_iterations, one.real_label) == (1, 160, 0.9)
    assert (plain.max_references, opad.max_references) == (1, 0)
