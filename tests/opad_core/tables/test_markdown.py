from opad_core.tables.markdown import Results, tables
from opad_core.tables.rows import ROWS


def run(row, concept, seed, *, steps="1", **scores):
    return {"row": row, "concept": concept, "seed": seed, "scores": {steps: scores}}


def results():
    runs = []
    for number, concept in enumerate(("mug", "teapot", "robot")):
        for seed in range(2):
            own = 0.5 + 0.02 * number + 0.002 * seed
            scores = {
                "1": {"identity": own, "text_fit": 0.3}, "before": {"identity": own - 0.02},
                "teacher": {"identity": own + 0.1}, "teacher-before": {"identity": own + 0.1 + 0.01 * (number - 1)},
            }  # fmt: skip
            runs.append({"row": "opad", "concept": concept, "seed": seed, "scores": scores})
            runs.append(run("lora", concept, seed, identity=own - 0.1, text_fit=0.2))
            runs.append(run("no-swd", concept, seed, identity=own + 0.05 * (number - 1), text_fit=0.3))
    runs.append({"row": "lora", "concept": "mug", "seed": 2, "failed": "the training diverged"})
    return Results(runs, {row: row for row in ROWS} | {"adversarial-0.02": "opad"})


def test_a_row_has_its_mean_and_its_difference_from_opad():
    text = tables(results())
    [line] = [line for line in text.splitlines() if line.startswith("| LoRA | 1 |")]
    assert "| 3 | 6 |" in line
    assert "0.421 [" in line
    assert "-0.100 [-0.100, -0.100]" in line, "the differences are paired"


def test_tables_without_runs_are_left_out():
    text = tables(results())
    assert "## Methods" in text
    assert "## Ablations" in text
    assert "## One photo" not in text


def test_claims_are_decided():
    lines = [line for line in tables(results()).splitlines() if line.startswith("| ")]
    claims = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[-1].removesuffix(" |") for line in lines}
    assert claims["OPAD has a higher identity than LoRA"] == "reproduced"
    assert claims["MS-SWD raises identity"] == "undecided"
    assert claims["The collaborative stage raises the student's identity"] == "reproduced"
    assert claims["The collaborative stage raises the teacher's identity"] == "undecided"


def test_a_stage_is_a_line_of_its_table():
    collaborative = tables(results()).split("## The collaborative stage")[1].split("##")[0]
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in collaborative.splitlines() if "|" in line}
    assert "-0.020 [-0.020, -0.020]" in lines["student before the collaborative stage"]
    assert "| 0.100 [0.100, 0.100]" in lines["teacher after the collaborative stage, 25 steps"]


def test_a_row_with_the_settings_of_another_has_its_runs():
    text = tables(results())
    [line] = [line for line in text.splitlines() if line.startswith("| adversarial weight 0.02 |")]
    assert "| 3 | 6 |" in line
    assert "0.000 [0.000, 0.000]" in line


def test_failed_runs_are_counted():
    [line] = [line for line in tables(results()).splitlines() if line.startswith("| LoRA | 7 |")]
    assert line == "| LoRA | 7 | 1 | 0.400 to 0.442 |  |  |  |  |"


def test_a_report_cards_verdicts_are_counted():
    rest = {"text_fit": 0.3, "clip_image": 0.5, "dino": 0.5, "closest": 0.7, "copies": 0.0}

    def card(row, seed, identity, scenes, diversity):
        return run(row, "mug", seed, identity=identity, scene_accuracy=scenes, diversity=diversity, **rest)

    runs = [card("untouched", seed, 0.4, 1.0, 0.15) for seed in range(4)]
    runs += [
        card("lora", 0, 0.5, 1.0, 0.05), card("lora", 1, 0.5, 1.0, 0.01),
        card("lora", 2, 0.41, 1.0, 0.05), card("lora", 3, 0.5, 0.8, 0.05),
    ]  # fmt: skip
    found = Results([*runs, card("lora", 4, 0.5, 1.0, 0.05)], {}).verdicts("lora")
    assert found == {
        "learned_well": 1, "images_nearly_alike": 1, "likeness_did_not_rise": 1, "scenes_lost": 1
    }, "the run of seed 4 has no untouched one beside it"  # fmt: skip
    assert "| LoRA | 4 | 0 | 0.410 to 0.500 | 1 | 1 | 1 | 1 |" in tables(Results(runs, {row: row for row in ROWS}))
