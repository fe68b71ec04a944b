"""The folder of a user study: one image of each row for each prompt, made once."""

import json

from PIL import Image

from opad_core.__main__ import main


def make_study(folder, *rows, concepts=("dog one",)):
    photos = [str(folder / name) for name in concepts]
    return main([
        "tables", "--base", str(folder / "base"), "--device", "cpu", "--study", str(folder / "faces"),
        "--photos", *photos, "--methods", *rows,
    ])  # fmt: skip


def test_each_group_has_one_image_of_each_row_of_the_same_prompt(folder):
    assert make_study(folder, "untouched", "textual_inversion") == 0
    study = json.loads((folder / "faces" / "study.json").read_text())
    assert study["title"] == "faces"
    assert study["methods"] == [
        {"name": "untouched", "label": "untouched student"},
        {"name": "textual_inversion", "label": "Textual Inversion"},
    ]
    (concept,), groups = study["concepts"], study["groups"]
    assert (concept["name"], concept["class_noun"]) == ("dog one", "dog")
    assert len(groups) == 8, "the report card's prompts"
    assert groups[1]["prompt"] == "a dog in the snow"
    assert all(group["concept"] == "dog one" for group in groups)
    assert all(group["images"].keys() == {"untouched", "textual_inversion"} for group in groups)
    named = concept["references"] + [file for group in groups for file in group["images"].values()]
    for file in named:
        with Image.open(folder / "faces" / file) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
    first, second = (
        (folder / "faces" / groups[0]["images"][row]).read_bytes() for row in ("untouched", "textual_inversion")
    )
    assert first != second


def test_after_an_interruption_only_what_is_missing_is_made(folder, capsys):
    assert make_study(folder, "untouched", "textual_inversion") == 0
    study = json.loads((folder / "faces" / "study.json").read_text())
    kept, lost = (folder / "faces" / study["groups"][0]["images"][row] for row in ("untouched", "textual_inversion"))
    before = lost.read_bytes()
    lost.unlink()
    kept.write_bytes(b"not made again")
    capsys.readouterr()
    assert make_study(folder, "untouched", "textual_inversion") == 0
    assert "1 of 2 trainings are missing" in capsys.readouterr().out
    assert lost.read_bytes() == before
    assert kept.read_bytes() == b"not made again"


def test_concepts_of_one_name_are_refused(folder, capsys):
    assert make_study(folder, "untouched", concepts=("dog one", "dog one")) == 1
    assert "two folders have one name" in capsys.readouterr().err
