"""Nothing that was finished is replaced without a word."""

import pytest

from opad_core.__main__ import main
from tests.opad_core.generation.test_generation import random_bundle

PROMPT = "a <concept> on the beach"


@pytest.fixture(scope="module")
def photos(references, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(references):
        image.save(folder / f"{i}.jpg")
    return folder


@pytest.fixture
def commands(base, photos, tmp_path):
    """The commands that write something, and the first file that each would replace."""
    common, concept = ["--base", str(base.folder)], tmp_path / "concept"
    train = ["train", "--images", str(photos), "--class", "dog", "--out", str(concept), *common]
    generate = ["generate", "--concept", str(concept), "--prompt", PROMPT, "--out", str(tmp_path / "images"), *common]
    export = ["export", "--concept", str(concept), "--out", str(tmp_path / "taken"), *common]
    return {
        "train": (train, concept / "concept.safetensors"),
        "generate": ([*generate, "--seed", "4", "--count", "2"], tmp_path / "images" / "4.png"),
        "export": (export, tmp_path / "taken" / "unet_lora.safetensors"),
    }


def test_a_finished_result_is_replaced_only_by_force(commands, capsys):
    for command, written in commands.values():
        assert main(command) == 0
        content = written.read_bytes()
        written.write_bytes(content + b"mine")
        capsys.readouterr()
        assert main(command) == 1
        sentence = f"opad: {written} already exists; choose another folder for --out, or replace it with --force\n"
        assert capsys.readouterr().err == sentence
        assert written.read_bytes() == content + b"mine"
        assert main([*command, "--force"]) == 0
        assert written.read_bytes() == content


def test_images_are_refused_before_the_first_one_is_written(commands, base, capsys):
    (_, bundle), (generate, first) = commands["train"], commands["generate"]
    bundle.parent.mkdir()
    bundle.write_bytes(random_bundle(base, 1))
    first.parent.mkdir()
    (first.parent / "5.png").write_bytes(b"mine")
    assert main(generate) == 1
    assert "5.png already exists" in capsys.readouterr().err
    assert not first.exists()


def test_evaluate_renews_its_report(commands, photos, base):
    _, bundle = commands["train"]
    bundle.parent.mkdir()
    bundle.write_bytes(random_bundle(base, 1))
    report = bundle.with_name("report.json")
    report.write_text("old")
    evaluate = ["evaluate", "--concept", str(bundle.parent), "--images", str(photos), "--base", str(base.folder)]
    assert main(evaluate) == 0
    assert report.read_text() != "old"
