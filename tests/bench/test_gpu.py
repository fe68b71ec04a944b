"""The bench on a CPU and a small base with random weights: what is measured, not how long it takes."""

import json

import pytest

from bench import gpu, gpu_parts
from tests.random_base import write_random_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def run(folder, capsys):
    def run(*arguments):
        """Exit status, each part's figures, and the table's lines."""
        status = gpu.main(["--base", str(folder), "--device", "cpu", *arguments])
        printed = capsys.readouterr().out
        lines, _, table = printed.partition("\n\n")
        figures: dict[str, dict[str, object]] = {}
        for line in map(json.loads, lines.splitlines()):
            figures.setdefault(line["part"], {}).update(line)
        return status, figures, table.splitlines()

    return run


def test_pictures_are_timed_whole_and_in_their_steps(run):
    status, figures, table = run("--parts", "picture-half", "switching-half")
    assert status == 0
    picture = figures["picture-half"]
    assert 0 < picture["p50_ms"] <= picture["p95_ms"]
    assert picture.keys() >= {f"batch_{size}_ms_per_picture" for size in (2, 4, 8)}
    assert picture.keys() >= {"new_prompt_ms", "unet_ms", "decode_ms", "to_uint8_ms"}
    switching = figures["switching-half"]
    assert switching["another_over_same"] == pytest.approx(
        switching["another_each_time_ms"] / switching["same_concept_ms"], rel=1e-3  # each has four digits
    )  # fmt: skip
    assert f"| picture-half | p50_ms | {picture['p50_ms']} |" in table


def test_an_iteration_is_the_mean_of_both_sorts_and_a_job_takes_all_of_them_and_more(run, monkeypatch):
    # The target's time is below 0.765 of the schedule in so many iterations.
    monkeypatch.setitem(gpu_parts.TRAININGS, "default", ("default", {"max_target_timestep": 0.765}))
    status, figures, _ = run("--parts", "train-default")
    assert status == 0
    told = figures["train-default"]
    mean = 0.765 * told["share_0.765_s"] + 0.235 * told["share_0.235_s"]
    assert told["iteration_s"] == pytest.approx(mean, rel=1e-3)  # each has four digits
    assert told["iterations"] == 4 + 2
    assert told["job_min"] > told["iterations_min"] == pytest.approx(6 * mean / 60, rel=1e-3)
    assert told["finite"] is True
    assert "tflop_per_s" not in told  # counted for the full size alone


def test_a_part_that_fails_says_why_and_the_next_goes_on(run):
    status, figures, table = run("--parts", "graph-half", "picture")
    assert status == 1
    assert figures["graph-half"]["error"] == "OpadError: CUDA graphs need a GPU"
    assert figures["picture"]["p50_ms"] > 0
    assert "| graph-half | error | OpadError: CUDA graphs need a GPU |" in table


def test_no_part_begins_after_its_time(run):
    status, figures, _ = run("--parts", "picture", "--seconds", "0")
    assert status == 0
    assert figures["picture"]["skipped"] == "0 s are over"


def test_a_part_that_does_not_end_is_ended(run):
    status, figures, _ = run("--parts", "train-default", "picture", "--seconds", "0.5", "--late", "0")
    assert status == 1
    assert figures["train-default"]["error"].startswith("TimeUp")
    assert "skipped" in figures["picture"]
