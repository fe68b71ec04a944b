import subprocess
import sys

import pytest

from opad_core.__main__ import main
from opad_core.adapters.key_value import pretrained_projections
from opad_core.doctor import examine
from opad_core.methods.opad.config import preset
from opad_core.training.config import override
from opad_core.training.memory import FLOAT32

PARTS = [
    "text encoder", "autoencoder", "teacher", "student", "CLIP with identity projection", "DINO and DINOv2",
    "training state", "1 views of the augmentation cache", "teacher's step", "student's step", "discriminators' step",
    "distillation iteration",
    "generating samples", "collaborative iteration", "bundle, written and read", "first image", "each next image",
]  # fmt: skip


def test_a_whole_run_reports_what_each_part_costs(base):
    reported = []
    config = override(preset("default", base.manifest.presets), {"batch_size": 1})
    rows = {row.part: row for row in examine(base, config, FLOAT32[0], report=reported.append)}
    assert [row.part for row in reported] == list(rows) == PARTS
    student = pretrained_projections(base.student)
    kv = sum(parameter.numel() for parameter in student.parameters())
    row_of_the_token = 128
    heads = (
        2 * (128 * 512 + 512) + (4 * 128 * 512 + 512) + 3 * (512 * 2 + 2)
    )  # class tokens twice, four identity tokens
    assert rows["training state"].trainable == 2 * kv + row_of_the_token + heads
    assert rows["student"].parameters == sum(p.numel() for p in base.student.unet.parameters())
    steps = [rows[part] for part in ("teacher's step", "student's step", "discriminators' step")]
    assert rows["distillation iteration"].seconds >= sum(step.seconds for step in steps)
    assert all(row.seconds > 0 and row.peak_gib > 0 for row in rows.values())


def test_the_command_prints_a_table(base, capsys):
    assert main(["doctor", "--base", str(base.folder), "--device", "cpu", "--skip-checks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nano, 64 px, batch 1, cpu, float32"
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[4:]] == PARTS


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--random-weights"], "--random-weights needs --base sd-turbo, got nano"),
        (["--random-weights", "--base", "sd-turbo", "--resolution", "100"], "must be a multiple of 64, got 100"),
    ],
)
def test_invalid_options_of_random_weights_are_refused(arguments, sentence, capsys):
    assert main(["doctor", "--device", "cpu", *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_it_imports_no_library_for_curves_and_no_client_for_downloads():
    """A machine with a GPU may have neither."""
    command = (
        "import sys, opad_core.__main__; print(*{'matplotlib', 'opad_core.bases.fetch.mirrors'} & sys.modules.keys())"
    )
    printed = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True).stdout
    assert printed.split() == []
