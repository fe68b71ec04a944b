"""`--out` where nothing can be written ends a command at once; an odd name or a folder with files in it does not."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from opad_core.__main__ import main
from opad_core.output_folder import require_output_folder
from worker import demo

NOBODY = 65534
COMMANDS = {
    "train": ["train", "--images", "none", "--class", "dog", "--out"],
    "generate": ["generate", "--prompt", "a dog", "--out"],
    "evaluate": ["evaluate", "--concept", "none", "--images", "none", "--out"],
    "export": ["export", "--concept", "none", "--out"],
    "tables": ["tables", "--photos", "none", "--out"],
    "a study": ["tables", "--photos", "none", "--study"],
    "prompts": ["tables", "--photos", "none", "--write-prompts"],
    "fetch": ["fetch", "sd-turbo", "--to"],
}


@contextmanager
def as_ordinary_user():
    """Root may write everywhere, so the effective user changes for the length of the block."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def places(short_folder):
    """Paths that cannot be a folder of results, and what is said of them."""
    folder = short_folder / "out"
    folder.mkdir(mode=0o755, exist_ok=True)
    for name in ("file", "a\nfile"):
        (folder / name).write_text("mine")
    for name, target in (("loop", "loop"), ("dangling", "nowhere")):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    locked = folder / "locked"
    locked.mkdir(mode=0o500, exist_ok=True)
    closed = folder / "closed"
    closed.mkdir(mode=0o000, exist_ok=True)
    no_folder = "is not a folder; name another one for the results"
    no_access = "cannot be written to: Permission denied; name another folder for the results"
    return {
        folder / "file": f"{folder}/file {no_folder}",
        folder / "file" / "below": f"{folder}/file {no_folder}",
        folder / "a\nfile": f"{folder}/a\ufffdfile {no_folder}",
        folder / "loop": f"{folder}/loop {no_folder}",
        folder / "loop" / "below": f"{folder}/loop {no_folder}",
        folder / "dangling": f"{folder}/dangling {no_folder}",
        locked: f"{locked} {no_access}",
        locked / "new" / "deep": f"{locked} {no_access}",
        closed / "new": f"{closed} {no_access}",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unusable_folder_is_named_before_anything_is_done(places, command, capsys):
    for place, sentence in places.items():
        with as_ordinary_user():
            assert main([*COMMANDS[command], str(place)]) == 1
        assert capsys.readouterr().err == f"opad: {sentence}\n"


def test_the_demo_names_it_too(places, capsys):
    place, sentence = next(iter(places.items()))
    assert demo.main(["--out", str(place)]) == 1
    assert capsys.readouterr().err == f"opad: {sentence}\n"


def test_a_name_that_is_too_long_is_one_sentence(base, tmp_path, capsys):
    place = tmp_path / ("x" * 300)
    assert main(["generate", "--prompt", "a dog", "--base", str(base.folder), "--out", str(place)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"opad: {place}")
    assert line.endswith(": File name too long")


def test_a_folder_may_have_an_odd_name_and_what_lies_in_it_stays(base, tmp_path):
    for name in ("with space", "with\nnewline", "mit ü 🐕", "-dash"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mine").write_text("mine")
        assert main(["generate", "--prompt", "a dog", "--base", str(base.folder), f"--out={folder}"]) == 0
        assert {file.name for file in folder.iterdir()} == {"0.png", "mine"}
        assert (folder / "mine").read_text() == "mine"
        assert Image.open(folder / "0.png").size == (64, 64)


def test_a_folder_in_the_place_of_a_result_is_refused_also_with_force(base, tmp_path, capsys):
    (tmp_path / "0.png").mkdir()
    given = ["generate", "--prompt", "a dog", "--base", str(base.folder), "--out", str(tmp_path), "--force"]
    assert main(given) == 1
    assert capsys.readouterr().err == f"opad: {tmp_path}/0.png is a folder; choose another folder for --out\n"


def test_a_check_leaves_nothing_behind(tmp_path):
    for folder in (tmp_path, tmp_path / "new" / "deep", Path(os.path.relpath(tmp_path / "new"))):
        require_output_folder(folder)
    assert list(tmp_path.iterdir()) == []
