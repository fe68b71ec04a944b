"""Run the benchmark on a CPU and a small base with random weights, and check what it measures."""

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
        """Return the exit status, the figures of each part, and the lines of the table."""
        status = gpu.main(["--base", str(folder), "--device", "cpu", *arguments])
        printed = capsys.readouterr().out
        lines, _, table = printed.partition("\n\n")
        figures: dict[str, dict[str, object]] = {}
        for line in map(json.loads, lines.splitlines()):
            figures.setdefault(line["part"], {}).update(line)
        return status, figures, table.splitlines()

    return run


@pytest.mark.slow
def test_images_are_timed_as_a_whole_and_by_step(run):
    status, figures, table = run("--parts", "image-half")
    assert status == 0
    image = figures["image-half"]
    assert 0 < image["p50_ms"] <= image["p95_ms"]
    assert image.keys() >= {f"batch_{size}_ms_per_image" for size in (2, 4, 8)}
    assert image.keys() >= {"new_prompt_ms", "unet_ms", "decode_ms", "to_uint8_ms"}
    assert f"| image-half | p50_ms | {image['p50_ms']} |" in table


def test_an_iteration_is_the_mean_of_both_kinds_and_a_job_takes_longer_than_its_iterations(run, monkeypatch):
    # The target's timestep is below 0.765 of the schedule in a share of 0.765 of the iterations.
    monkeypatch.setitem(gpu_parts.TRAININGS, "default", ("default", {"max_target_timestep": 0.765}))
    status, figures, _ = run("--parts", "train-default")
    assert status == 0
    results = figures["train-default"]
    mean = 0.765 * results["share_0.765_s"] + 0.235 * results["share_0.235_s"]
    assert results["iteration_s"] == pytest.approx(mean, rel=1e-3)  # each has four digits
    assert results["iterations"] == 4 + 2
    assert results["job_min"] > results["iterations_min"] == pytest.approx(6 * mean / 60, rel=1e-3)
    assert results["finite"] is True
    assert "tflop_per_s" not in results  # counted only for the full size


def test_no_part_begins_after_its_time(run):
    status, figures, _ = run("--parts", "image", "--seconds", "0")
    assert status == 0
    assert figures["image"]["skipped"] == "0 s are over"


def test_a_part_that_does_not_end_is_stopped(run):
    status, figures, _ = run("--parts", "train-default", "image", "--seconds", "0.5", "--late", "0")
    assert status == 1
    assert figures["train-default"]["error"].startswith("TimeUp")
    assert "skipped" in figures["image"]
