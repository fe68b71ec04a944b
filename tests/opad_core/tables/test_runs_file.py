import pytest

from opad_core.errors import OpadError
from opad_core.tables.rows import ROWS, settings_of
from opad_core.tables.running import code_of
from opad_core.tables.runs_file import append_run, current, read_runs


def test_a_line_that_was_cut_off_is_left_out_and_replaced(tmp_path):
    file = tmp_path / "runs.jsonl"
    append_run(file, {"row": "opad", "seed": 0})
    with file.open("a") as stream:
        stream.write('{"row": "op')
    assert read_runs(file) == [{"row": "opad", "seed": 0}]
    append_run(file, {"row": "opad", "seed": 1})
    assert [run["seed"] for run in read_runs(file)] == [0, 1]
    assert file.read_text().count("\n") == 2


def test_other_damage_is_named(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text('{"row": "opad"}\n{nonsense\n{"row": "opad"}\n')
    with pytest.raises(OpadError, match=r"line 2: .*; remove the line, its run is repeated"):
        read_runs(file)


def test_only_runs_of_todays_code_base_and_settings_count_and_the_newest_of_them(base):
    manifest = base.manifest

    def run(row, seed=0, **changes):
        own = {
            "row": row, "concept": "mug", "seed": seed, "code": code_of(ROWS[row]), "base_sha256": manifest.sha256,
            "settings": settings_of(ROWS[row], manifest),
        }  # fmt: skip
        return {**own, **changes}

    other = run("lora")["settings"] | {"lr": 1.0}
    runs = [
        run("opad", value=1), run("opad", value=2), run("opad", seed=1), run("untouched"),
        run("lora", code="older"), run("lora", base_sha256="other"), run("lora", settings=other),
        {**run("opad"), "row": "gone"},
    ]  # fmt: skip
    assert current(runs, manifest) == [run("opad", value=2), run("opad", seed=1), run("untouched")]
