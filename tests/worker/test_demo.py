import pytest
from PIL import Image

from worker import demo


@pytest.mark.parametrize(("count", "remedy"), [(1, "OPAD_MIN_REFERENCES=1"), (6, "OPAD_MAX_REFERENCES=6")])
def test_photos_that_the_service_would_refuse_are_refused_before_it_starts(tmp_path, capsys, count, remedy):
    for i in range(count):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(tmp_path / f"{i}.png")
    assert demo.main(["--images", str(tmp_path), "--class", "mug"]) == 1
    printed = capsys.readouterr()
    assert printed.err == (
        f"opad: the service needs 3-5 photos; {tmp_path} holds {count}; set {remedy} to allow that\n"
    )
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--class", "mug"], "which photos show a mug? `make demo IMAGES=folder CLASS=mug`"),
        (["--images", "{photos}"], "the class noun is missing: `make demo IMAGES=folder CLASS=dog`"),
        (
            ["--images", "{photos}", "--class", "mugg"],
            "does not know 'mugg'; CLASS can be one of: alien, apple, ",
        ),
    ],
)
def test_a_wrong_class_is_refused_before_anything_is_started(tmp_path, capsys, arguments, sentence):
    for i in range(3):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(tmp_path / f"{i}.png")
    assert demo.main([argument.format(photos=tmp_path) for argument in arguments]) == 1
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert "Traceback" not in printed.err
    assert "Start PostgreSQL" not in printed.out


def test_the_sheet_shows_scenes_from_all_over_the_list():
    """Its neighbors are often one scene in other words: "with a city in the background" and "in the city"."""
    assert demo._spread(list("abcdefgh")) == ["a", "c", "e", "g"]
    assert demo._spread(list("abcdefghi")) == ["a", "c", "e", "g"]
    assert demo._spread(list("abc")) == ["a", "b", "c"]
    assert demo._spread([]) == []


def test_a_class_that_is_no_text_is_named(tmp_path, capsys):
    (tmp_path / "class.txt").write_bytes(b"caf\xe9\n")
    assert demo.main(["--images", str(tmp_path)]) == 1
    assert f"{tmp_path}/class.txt is not UTF-8 text: " in capsys.readouterr().err


def test_what_the_base_cannot_learn_is_said_before_anything_starts(tmp_path, monkeypatch, capsys):
    """Nothing can start, because the data folder would be inside of a file."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPAD_HOME", str(tmp_path / "file" / "home"))
    assert demo.main([]) == 1
    assert "photographs of real objects come out blurred" in capsys.readouterr().out
