"""Run the benchmark on a CPU and a small base with random weights, and check what it measures."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bench import learning
from bench.learning_parts import CAPTURED, PLAIN, Effort, Lab, planned_counts, reasons_to_fall_back, timed_way
from opad_core import OpadConfig, preset
from opad_core.methods.accelerated import accelerated, log
from opad_core.training.memory import GIB
from tests.gpu import pretend_gpu
from tests.random_base import claim_resolution, write_random_base

CONCEPT = Path("examples/striped_mug")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def run(folder, capsys):
    def run(*arguments):
        """Return the exit status, the lines of JSON, and the tables."""
        status = learning.main(["--base", str(folder), "--device", "cpu", "--iterations", "1", *arguments])
        lines, _, tables = capsys.readouterr().out.partition("\n\n")
        return status, list(map(json.loads, lines.splitlines())), tables

    return run


def figures_of(lines, part):
    figures = {}
    for line in lines:
        if line["part"] == part:
            figures |= line
    return figures


@pytest.mark.slow
def test_an_iteration_is_measured_by_its_operations_and_by_the_speed_of_matrix_products(run):
    status, lines, tables = run("--parts", "matrix-rate", "default")
    assert status == 0
    figures = figures_of(lines, "default")
    assert figures["what"] == "plain loop"
    assert figures["finite"] is True
    assert figures["matrix_tflop_per_s"] == figures_of(lines, "matrix-rate")["float32_tflop_per_s"]
    # each has four digits
    assert figures["ms_per_tflop"] == pytest.approx(1000 * figures["iteration_s"] / figures["tflop"], rel=2e-3)
    reached = figures["tflop"] / figures["iteration_s"]
    assert figures["of_matrix_rate"] == pytest.approx(reached / figures["matrix_tflop_per_s"], rel=2e-3)
    assert figures["peak_gib"] > 0
    assert f"| default | plain loop | {figures['iteration_s']} | {figures['ms_per_tflop']} |" in tables


@pytest.mark.slow
def test_a_job_names_each_part_of_its_wall_time_and_their_sum(run):
    status, lines, tables = run("--parts", "job-default")
    assert status == 0
    rows = {line["what"]: line for line in lines if "what" in line}
    assert list(rows) == [
        "load", "references", "preparation", "distillation", "caches", "collaborative", "samples", "previews",
        "bundle", "exports", "report_card", "sum",
    ]  # fmt: skip
    # 4 and 2 iterations, and a preview at the end
    assert [rows[name]["count"] for name in ("distillation", "collaborative", "previews", "sum")] == [4, 2, 1, 6]
    *parts, total = (row["job_s"] for row in rows.values())
    assert total == pytest.approx(sum(parts), rel=1e-3)
    assert total <= rows["sum"]["at_s"] + 0.1, "parts overlap"  # rounded to a tenth; it also frees memory
    assert f"| job-default | sum | 6 |  | {total} |" in tables
    assert 0 <= figures_of(lines, "job-default")["identity"] <= 1


@pytest.mark.slow
def test_the_time_of_a_whole_job_is_computed_from_a_shorter_one(run):
    status, lines, _ = run("--parts", "job-default", "--job-iterations", "1")
    assert status == 0
    rows = {line["what"]: line for line in lines if "what" in line}
    assert (rows["distillation"]["count"], rows["collaborative"]["count"], rows["sum"]["count"]) == (4, 2, 6)
    assert rows["distillation"]["job_s"] == pytest.approx(4 * rows["distillation"]["each_s"], rel=1e-3)
    assert rows["load"]["job_s"] == rows["load"]["each_s"]


def test_a_whole_job_has_a_preview_every_25_and_a_copy_of_its_state_every_50_iterations():
    config = OpadConfig(iterations=1000, collaborative_iterations=310, eval_every=100)
    assert planned_counts(config) == {
        "distillation": 1000,
        "collaborative": 310,
        "samples": 1,
        "previews": 53,  # the last one at the end
        "evaluations": 14,
        "checkpoints": 26,
    }


def test_no_part_begins_after_its_time(run):
    status, lines, _ = run("--parts", "paper", "--seconds", "0")
    assert status == 0
    assert figures_of(lines, "paper")["skipped"] == "0 s are over"


def test_a_part_that_needs_a_gpu_is_refused_without_one(run, capsys):
    with pytest.raises(SystemExit):
        run("--parts", "default-16-gb")
    assert "default-16-gb needs a GPU" in capsys.readouterr().err


def test_a_limited_gpu_has_the_rung_that_a_trainer_takes_there(folder, tmp_path, monkeypatch):
    base = shutil.copytree(folder, tmp_path / "base")
    claim_resolution(base, 512)
    pretend_gpu(monkeypatch, free=70 * GIB, total=80 * GIB, fraction=0.2)  # 16 GiB
    lab = Lab(
        str(base), torch.device("cuda"), tmp_path, Effort(1, 1), concept=CONCEPT, resolution=64,
        compile_cache=tmp_path / "compiled",
    )  # fmt: skip
    assert lab.rung("default", "half").number == 3


@pytest.fixture
def lab(folder, tmp_path):
    lab = Lab(
        str(folder), torch.device("cpu"), tmp_path, Effort(1, 1), concept=CONCEPT, resolution=64,
        compile_cache=tmp_path / "compiled",
    )  # fmt: skip
    yield lab
    lab.close()


@pytest.mark.slow
def test_a_way_that_fails_is_named_with_its_reason(lab):
    base = lab.base("float32")
    config = preset("default", base.manifest.presets)

    def training(networks):
        return lab.training(networks, config, PLAIN)

    # CUDA graphs fail on a CPU, so the plain loop is used
    row = timed_way(lab, base, CAPTURED, lambda: accelerated(training(base), training, cache=None))
    assert row["what"] == "plain loop"
    assert row["fell_back"].startswith("learning goes on without CUDA graphs: ")


def test_a_compile_cache_is_cold_until_something_is_in_it(lab):
    assert lab.cache_state == "cold"
    lab.compile_cache.mkdir()
    (lab.compile_cache / "code").touch()
    assert lab.cache_state == "warm"


def test_reasons_are_collected_only_inside_the_block():
    with reasons_to_fall_back() as reasons:
        pass
    log.warning("later")
    assert reasons == []


@pytest.mark.slow
def test_operations_at_full_size_are_those_that_flops_counts(tmp_path):
    lab = Lab(None, torch.device("cpu"), tmp_path, Effort(1, 1), concept=CONCEPT, resolution=512,
              compile_cache=tmp_path)  # fmt: skip
    lab.count_operations({"default"})
    assert lab.tflop(None, OpadConfig(), "default") == pytest.approx(38.4, abs=0.1)
    lab.close()
