"""Rows whose images were made elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opad_core.__main__ import main
from opad_core.bases.loading import load_base
from opad_core.errors import OpadError
from opad_core.tables import scoring
from opad_core.tables.concepts import Concept
from opad_core.tables.elsewhere import (
    PROMPTS,
    image_files,
    missing_images,
    named_folders,
    prompts_of,
    read_images,
    score_folder,
)
from opad_core.tables.runs_file import read_runs


@pytest.fixture(scope="module", autouse=True)
def renamed(folder):
    """The base is not nano, whose scenes alone have a judge."""
    manifest = folder / "base" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"name": "tiny"}))


@pytest.fixture(scope="module")
def concept(references):
    return Concept("dog one", "dog", references)


def tables(folder, *options):
    return main([
        "tables", "--base", str(folder / "base"), "--device", "cpu", "--photos", str(folder / "dog one"),
        "--work", str(folder / "work"), "--seeds", "1", "--protocol", "nano",
        "--methods", "textual_inversion", *map(str, options),
    ])  # fmt: skip


def write_images(files, *, size=(64, 64)):
    for number, file in enumerate(file for of_prompt in files for file in of_prompt):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number, 100, 100)).save(file)


def test_a_folder_is_scored_as_a_row_that_says_so(folder, capsys):
    images = folder / "images"
    assert tables(folder, "--write-prompts", images) == 0
    prompts = (images / "dog one" / PROMPTS).read_text().splitlines()
    assert len(prompts) == 8
    assert prompts[0].startswith("a dog ")
    write_images(image_files(images, "dog one", 8))
    assert tables(folder, "--out", folder / "out", "--images-of", f"ominicontrol={images}") == 0
    runs = read_runs(folder / "out" / "runs.jsonl")
    assert [(run["row"], run["concept"]) for run in runs] == [
        ("ominicontrol", "dog one"),
        ("textual_inversion", "dog one"),
    ]
    identity = runs[0]["scores"]["1"]["identity"]
    text = (folder / "out" / "README.md").read_text()
    assert f"| ominicontrol (images made elsewhere) | 1 | 1 | 1 | {identity:.3f} |" in text
    assert "| ominicontrol (images made elsewhere) | 1 | 0 |" in text.split("## Stability")[1]

    assert tables(folder, "--out", folder / "out", "--images-of", f"ominicontrol={images}") == 0
    assert len(read_runs(folder / "out" / "runs.jsonl")) == 2, "the same files are scored once"
    (images / "dog one" / "01" / "0.png").write_bytes((images / "dog one" / "01" / "1.png").read_bytes())
    assert tables(folder, "--out", folder / "out", "--images-of", f"ominicontrol={images}") == 0
    assert [run["row"] for run in read_runs(folder / "out" / "runs.jsonl")][2:] == ["ominicontrol"]


def test_missing_images_are_listed_before_anything_is_learned(folder, tmp_path, capsys):
    write_images(image_files(tmp_path, "dog one", 8)[:7])
    (tmp_path / "dog one" / "02" / "3.png").unlink()
    assert tables(folder, "--out", tmp_path / "out", "--images-of", f"x={tmp_path}") == 1
    said = capsys.readouterr().err
    assert "lacks 5 of 32 images: dog one/02/3.png, dog one/08/0.png, dog one/08/1.png" in said
    assert "--write-prompts` writes which prompts they show" in said
    assert not (tmp_path / "out").exists()


def test_many_missing_images_are_counted(tmp_path):
    said = missing_images(tmp_path, {"a": 2, "b": 25})
    first = "a/01/0.png, a/01/1.png, a/01/2.png, a/01/3.png, a/02/0.png"
    assert said == f"{tmp_path} lacks 108 of 108 images: {first} and 103 more"
    write_images(image_files(tmp_path, "a", 2))
    assert missing_images(tmp_path, {"a": 2}) is None


def test_images_are_read_in_the_order_of_prompts_and_seeds_as_squares(tmp_path):
    files = image_files(tmp_path, "mug", 2)
    write_images(files, size=(120, 100))
    images = read_images(files, 32)
    assert images.shape == (2, 4, 32, 32, 3)
    assert images[:, :, 16, 16, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    files[1][0].write_text("no image")
    with pytest.raises(OpadError, match=r"02/0.png cannot be read as an image"):
        read_images(files, 32)


def test_images_of_the_student_score_as_its_own_row(folder, concept, tmp_path):
    """Written as PNG and read again, images score exactly what they scored when they were generated."""
    loaded = load_base(str(folder / "base"), device="cpu")
    images = scoring.student_scenes(loaded, None, concept, steps=1)
    files = image_files(tmp_path, concept.name, len(prompts_of(loaded, concept, ())))
    for of_prompt, those in zip(files, images, strict=True):
        for file, image in zip(of_prompt, those, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    assert np.array_equal(read_images(files, 64), images)
    run = score_folder(loaded, concept, "own", files, scoring)
    assert run["scores"]["1"] == scoring.scored(loaded, images, concept)


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["images"], "takes NAME=FOLDER, got 'images'"),
        (["lora=."], "there is a row 'lora' already"),
        (["ip_adapter=."], "there is a row 'ip_adapter' already"),
        (["x=.", "x=.."], "there is a row 'x' already"),
        (["x=nowhere"], "there is no folder nowhere with images of x"),
    ],
)
def test_other_names_and_folders_are_refused(assignments, said):
    assert named_folders(["x=."]) == {"x": Path()}
    with pytest.raises(OpadError, match=said):
        named_folders(assignments)
