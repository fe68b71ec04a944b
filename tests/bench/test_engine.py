"""Run the comparison on a CPU and a small base with random weights, and check that each contender does its work."""

import json

import numpy as np
import pytest
import torch

from bench import engine
from bench.engine_parts import Effort, Lab
from bench.engine_peers import HotSwapped, MixedBatches, Selected
from bench.engine_service import Phase, write_engine_parts
from opad_core import ImageRequest, OneStepGenerator, load_base
from opad_core.known_answers.stock_pipeline import with_shared_weights
from tests.random_base import write_random_base

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # of the second LoRA
ROUNDING = 1 / 255
"""One of the 256 levels that ours has; theirs are not rounded."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def lab(folder, tmp_path_factory):
    return Lab(
        load_base(str(folder), device="cpu"), tmp_path_factory.mktemp("lab"), Effort(2, 0), concepts=8, sizes=[1]
    )


@pytest.fixture
def run(folder, capsys):
    def run(*arguments):
        """Return the exit status, the lines of JSON, and the tables."""
        status = engine.main(["--base", str(folder), "--device", "cpu", "--rounds", "2", "--comparison-seconds", "0.1",
                              "--concepts", "8", *arguments])  # fmt: skip
        lines, _, tables = capsys.readouterr().out.partition("\n\n")
        return status, list(map(json.loads, lines.splitlines())), tables

    return run


def times(lines, part, size):
    return {line["what"]: line for line in lines if line["part"] == part and line.get("batch") == size}


@pytest.mark.slow  # the LoRAs need peft
def test_contenders_are_timed_in_each_batch_size_beside_the_stock_pipeline(run):
    status, lines, tables = run("--parts", "ours-eager", "first-image", "lora", "peft")
    assert status == 0
    ours = times(lines, "ours-eager", 8)
    assert list(ours) == [
        "stock, eager",
        "stock, eager, text encoded before",
        "ours, eager, one concept",
        "ours, eager, another each time",
        "ours, eager, 8 mixed",
    ]
    assert "ours, eager, 8 mixed" not in times(lines, "ours-eager", 1)
    assert "PEFT, 8 LoRAs mixed" in times(lines, "peft", 8)
    assert {"LoRA hot-swapped, another each time", "LoRA by set_adapters, another each time"} < set(
        times(lines, "lora", 1)
    )
    assert {"ours, eager, first image of a bundle", "LoRA file hot-swapped, first image"} < set(
        times(lines, "first-image", 1)
    )
    mixed, one = ours["ours, eager, 8 mixed"], ours["ours, eager, one concept"]
    # each figure is rounded to four digits
    assert mixed["of_one_concept"] == pytest.approx(mixed["ms_per_image"] / one["ms_per_image"], rel=1e-3)
    for part, size in (("ours-eager", 1), ("ours-eager", 8), ("first-image", 1), ("lora", 1), ("peft", 8)):
        rows = times(lines, part, size)
        for row in rows.values():
            ratio = row["ms_per_image"] / rows["stock, eager"]["ms_per_image"]
            assert row["of_stock_eager"] == pytest.approx(ratio, rel=1e-3)
    row = f"| ours-eager | ours, eager, 8 mixed | 8 | {mixed['ms_per_image']} | {mixed['of_stock_eager']} |"
    assert row in tables


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--concepts", "7"), "--concepts is 7; use at least 8, the images of a mixed batch"),
        (("--batches", "1", "9"), "--batches must be from 1 to 8, got 1 9"),
        (("--batches", "0"), "--batches must be from 1 to 8, got 0"),
    ],
)
def test_impossible_numbers_are_refused(run, capsys, arguments, sentence):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert sentence in capsys.readouterr().err


def test_the_stock_pipeline_draws_what_ours_draws_without_a_concept(lab):
    theirs = lab.stock.images([lab.stock_prompt], [5])
    [ours] = lab.best.generate([ImageRequest(None, lab.stock_prompt, 5)])
    assert np.abs(theirs[0] - ours / 255).max() <= ROUNDING
    embedded = lab.stock.images_of_embedded(lab.stock.encode([lab.stock_prompt]), [5])
    assert np.array_equal(embedded, theirs)


@pytest.mark.slow
def test_every_way_to_choose_a_lora_draws_the_same_image_of_it(lab):
    prompts, seeds = [lab.stock_prompt] * 2, [3, 3]
    swapped, selected, mixed = (
        HotSwapped(lab.base, lab.loras[0]),
        Selected(lab.base, lab.loras),
        MixedBatches(lab.base, lab.loras),
    )
    images = []
    for number in (2, 5):
        swapped.swap(lab.loras[number])
        selected.select(number)
        images.append(swapped.images(prompts[:1], seeds[:1])[0])
        # another batch size may sum in another order: four digits of single precision remain
        assert np.allclose(selected.images(prompts[:1], seeds[:1])[0], images[-1], atol=1e-4)
    mixed.select([2, 5])
    assert np.allclose(mixed.images(prompts, seeds), images, atol=1e-4)
    assert np.abs(images[0] - images[1]).max() > 0.01
    untouched = lab.stock.images(prompts[:1], seeds[:1])[0]
    assert np.abs(images[0] - untouched).max() > 0.01


def test_a_copy_shares_the_memory_of_the_weights_and_nothing_else(lab):
    ours, theirs = lab.base.student.unet, with_shared_weights(lab.base.student.unet)
    assert theirs.conv_in.weight.data_ptr() == ours.conv_in.weight.data_ptr()
    assert theirs.conv_in is not ours.conv_in
    theirs.conv_in.weight.data = torch.zeros(1)
    assert ours.conv_in.weight.shape != (1,)


@pytest.mark.slow
def test_later_parts_compare_with_the_compiled_generator(run):
    status, lines, _ = run("--parts", "ours", "first-image", "--batches", "8")
    assert status == 0
    [ready] = [line for line in lines if "compile_s" in line]
    assert ready["compile_s"] > ready["load_s"] > 0
    assert "ours, compiled, 8 mixed" in times(lines, "ours", 8)
    assert "ours, compiled, first image of a bundle" in times(lines, "first-image", 1)


@pytest.mark.slow
def test_an_engine_is_measured_at_its_start_and_over_its_socket_at_three_shares_of_its_capacity(run):
    status, lines, tables = run("--parts", "start", "http")
    assert status == 0
    ready = {line["what"]: line["ready_s"] for line in lines if "ready_s" in line}
    compiled = {line["what"]: line["compiled_s"] for line in lines if "compiled_s" in line}
    assert list(ready) == list(compiled) == ["first start", "second start"]
    # the first one compiles for many seconds, the second one reads what the first one wrote
    assert compiled["first start"] - ready["first start"] > 2 * (compiled["second start"] - ready["second start"])
    loads = [line for line in lines if line["part"] == "http"]
    names = [
        "one client",
        "16 clients, the capacity",
        "50% of the capacity",
        "70% of the capacity",
        "100% of the capacity",
    ]
    assert [line["what"] for line in loads] == names
    capacity = loads[1]["images_per_s"]
    # each figure is rounded to four digits
    assert [line["offered_per_s"] for line in loads[2:]] == [
        pytest.approx(x * capacity, rel=1e-3) for x in (0.5, 0.7, 1)
    ]
    for line in loads:
        assert 0 < line["engine_p50_ms"] < line["p50_ms"] <= line["p99_ms"]
        assert line["p50_outside_the_engine_ms"] > 0
        assert line["refused"] == 0
    assert f"| http | one client |  | {loads[0]['images_per_s']} | {loads[0]['p50_ms']} |" in tables


def test_what_a_load_took_is_split_into_the_engines_time_and_the_rest():
    phase = Phase(latencies_ms=[10.0, 20.0, 60.0], own_ms=[9.0, 17.0, 40.0], refused=1, seconds=2.0)
    assert phase.figures() == {
        "images_per_s": 1.5,
        "p50_ms": 20.0,
        "p99_ms": pytest.approx(59.2),  # 1.98 of the 2 steps between the three sorted values
        "p99_over_p50": pytest.approx(2.96),
        "engine_p50_ms": 17.0,
        "p50_outside_the_engine_ms": 3.0,  # the median of 1, 3 and 20
        "refused": 1,
    }


def test_a_base_in_memory_is_written_as_an_engine_loads_it(lab, tmp_path):
    write_engine_parts(lab.base, tmp_path)
    request = ImageRequest(None, lab.stock_prompt, 5)
    written = load_base(str(tmp_path), device="cpu")
    images = [OneStepGenerator(base).generate([request]).astype(int) for base in (written, lab.base)]
    # The schedule is written as betas, whose rounding changes the noise by 6e-8: a value may be at the edge of a level.
    assert np.abs(images[0] - images[1]).max() <= 1
