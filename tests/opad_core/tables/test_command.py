"""The tables of a real base with random weights: what is missing runs, what is there does not."""

import json
import shutil

import pytest
from PIL import Image

from opad_core.__main__ import main
from opad_core.tables.runs_file import read_runs


def compare(folder, *rows, concepts=("dog one", "dog two"), seeds=1):
    photos = [str(folder / name) for name in concepts]
    return main([
        "tables", "--base", str(folder / "base"), "--device", "cpu", "--out", str(folder / "out"),
        "--work", str(folder / "work"), "--photos", *photos, "--seeds", str(seeds), "--methods", *rows,
    ])  # fmt: skip


def test_missing_runs_are_made_once_and_the_tables_written(folder, capsys):
    assert compare(folder, "textual_inversion", "lora-informed", concepts=["dog one"]) == 0
    assert "2 runs are missing, 0 are there" in capsys.readouterr().out
    assert compare(folder, "textual_inversion", "lora-informed") == 0
    assert "2 runs are missing, 2 are there" in capsys.readouterr().out
    runs = read_runs(folder / "out" / "runs.jsonl")
    assert [(run["row"], run["concept"]) for run in runs] == [
        ("textual_inversion", "dog one"), ("lora-informed", "dog one"),
        ("textual_inversion", "dog two"), ("lora-informed", "dog two"),
    ]  # fmt: skip
    learned = runs[1]
    assert learned["settings"]["scene_captions"] is True
    assert learned["scores"].keys() == {"1"}
    assert learned["scores"]["1"].keys() >= {"identity", "middle_identity", "diversity", "copies"}
    assert learned["scores"]["1"] != runs[0]["scores"]["1"]
    text = (folder / "out" / "README.md").read_text()
    assert "| LoRA, same information | 1 | 2 | 2 |" in text
    with Image.open(folder / "out" / "sheets" / "dog one.jpg") as sheet:
        assert sheet.size == (300 + 4 * 136, 3 * 136), "photos and two rows, four tiles each"
        assert b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in sheet.info["xmp"]
    strips = list((folder / "work").iterdir())
    assert len(strips) == 4
    with Image.open(strips[0]) as strip:
        assert b"digitalsourcetype/trainedAlgorithmicMedia" in strip.info["xmp"]


def test_a_run_of_other_code_is_made_again(folder, capsys):
    assert compare(folder, "textual_inversion", concepts=["dog one"]) == 0
    file = folder / "out" / "runs.jsonl"
    before = file.read_text()
    file.write_text("".join(json.dumps(json.loads(line) | {"code": "older"}) + "\n" for line in before.splitlines()))
    capsys.readouterr()
    assert compare(folder, "textual_inversion", concepts=["dog one"]) == 0
    assert "1 runs are missing, 0 are there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "said"),
    [(["lorra"], "there is no row 'lorra'; known are untouched, opad"), (["textual_inversion"], "has no class.txt")],
)
def test_wrong_names_and_folders_are_named(folder, tmp_path, rows, said, capsys):
    photos = shutil.copytree(folder / "dog one", tmp_path / "photos")
    (photos / "class.txt").unlink()
    assert compare(folder, *rows, concepts=[str(photos)]) == 1
    assert said in capsys.readouterr().err
