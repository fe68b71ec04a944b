"""The whole command by the protocols of datasets: a tiny random base and tiny random networks of the metrics."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from opad_core.__main__ import main
from opad_core.bases.loading import load_base
from opad_core.bases.metric_networks import METRICS
from opad_core.command_line import command_line
from opad_core.evaluation.published import PUBLISHED, PublishedMetrics
from opad_core.tables.command import examination_hash, plan_of, runs_examined, usual_protocol
from opad_core.tables.prompted import Prompted
from opad_core.tables.protocols import Subject
from opad_core.tables.runs_file import read_runs
from tests.metric_networks import write_metrics


@pytest.fixture(scope="module")
def folder(references, tmp_path_factory):
    """Two subjects of each dataset, and the networks of the metrics where fetched bases are."""
    folder = tmp_path_factory.mktemp("datasets")
    for name in ("dreambooth/dog", "dreambooth/dog2", "customconcept101/photos/dog1", "customconcept101/photos/mug1"):
        (folder / name).mkdir(parents=True)
        for number, photo in enumerate(references[:2]):
            photo.save(folder / name / f"{number:02}.png")
    entries = [
        {"class_prompt": noun, "instance_data_dir": f"./photos/{noun}1", "prompt_filename": "prompts.txt"}
        for noun in ("dog", "mug")
    ]
    (folder / "customconcept101" / "dataset.json").write_text(json.dumps(entries))
    (folder / "customconcept101" / "prompts.txt").write_text("a {} in the snow\n{} on the beach.\n")
    write_metrics(folder / "bases")
    return folder


def compare(base, folder, protocol, *options):
    return main([
        "tables", "--base", str(base.folder), "--protocol", protocol, "--device", "cpu",
        "--out", str(folder / "out" / protocol), "--work", str(folder / "work"), "--photos", str(folder / protocol),
        "--seeds", "1", *options,
    ])  # fmt: skip


def test_the_tables_say_what_to_fetch_before_anything_is_learned(base, folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OPAD_BASES_DIR", str(tmp_path))
    assert compare(base, folder, "dreambooth", "--methods", "lora") == 1
    assert f"networks that are not in {tmp_path / METRICS}; " in capsys.readouterr().err
    assert not (folder / "out").exists()


def check_tables(folder, protocol, concepts):
    runs = read_runs(folder / "out" / protocol / "runs.jsonl")
    assert [run["concept"] for run in runs] == concepts
    assert runs[0]["examined"].startswith(f"{protocol} ")
    assert runs[0]["scores"]["1"].keys() >= {*PUBLISHED, "identity", "middle_identity", "diversity"}
    text = (folder / "out" / protocol / "README.md").read_text()
    assert "| row | steps | CLIP-T (OPAD) | CLIP-I (OPAD) | DINOv2 (OPAD) | CLIP-T (DreamBooth) |" in text
    lines = [line for line in text.splitlines() if line.startswith("| LoRA, same information | 1 |")]
    mean = sum(run["scores"]["1"]["dreambooth_dino"] for run in runs) / 2
    assert any(f"| {mean:.3f} [" in line for line in lines)


def test_rows_have_the_published_metrics_beside_nanos(base, folder, monkeypatch, capsys):
    monkeypatch.setenv("OPAD_BASES_DIR", str(folder / "bases"))
    assert compare(base, folder, "customconcept101", "--methods", "lora-informed") == 0
    assert "2 runs are missing, 0 are there" in capsys.readouterr().out
    check_tables(folder, "customconcept101", ["dog1", "mug1"])
    assert compare(base, folder, "customconcept101", "--methods", "lora-informed") == 0
    assert "0 runs are missing, 2 are there" in capsys.readouterr().out


@pytest.mark.slow
def test_dreambooths_prompts_take_longer(base, folder, monkeypatch, capsys):
    monkeypatch.setenv("OPAD_BASES_DIR", str(folder / "bases"))
    assert compare(base, folder, "dreambooth", "--methods", "lora-informed") == 0
    assert "photos: 2 cannot be verified (dog, dog2)" in capsys.readouterr().out
    check_tables(folder, "dreambooth", ["dog", "dog2"])


def test_runs_by_other_prompts_or_metrics_do_not_count(base, folder, tmp_path):
    def examined(protocol):
        options = ["tables", "--base", str(base.folder), "--protocol", protocol, "--out", "x", "--photos", "y"]
        return examination_hash(plan_of(command_line().parse_args(options), bases=tmp_path))

    manifest = write_metrics(tmp_path) / "manifest.json"
    before = examined("dreambooth")
    assert examined("nano") is None
    assert examined("customconcept101") != before
    manifest.write_text(manifest.read_text().replace('"files": {', '"files": {"more": "0", '))
    assert examined("dreambooth") != before
    file = tmp_path / "runs.jsonl"
    file.write_text(f'{{"row": "opad"}}\n{{"row": "lora", "examined": "{before}"}}\n')
    assert [run["row"] for run in runs_examined(file, None)] == ["opad"]
    assert [run["row"] for run in runs_examined(file, before)] == ["lora"]


def test_the_protocol_is_nanos_on_nano_and_dreambooths_elsewhere(base):
    assert usual_protocol(base.manifest) == "nano"
    assert usual_protocol(replace(base.manifest, name="sd-turbo")) == "dreambooth"


def test_images_are_scored_by_their_own_prompts_and_photos(base, folder):
    """The same images with the prompts exchanged fit the text differently, and otherwise score the same."""
    loaded = load_base(str(base.folder), device="cpu")
    metrics = PublishedMetrics(folder / "bases", torch.device("cpu"))
    subject = Subject("dog", folder / "dreambooth" / "dog", "dog", ("a {} in the snow", "a red {}"))
    concept = subject.read()
    asked = Prompted(subject.prompts, metrics)
    images = asked.student_scenes(loaded, None, concept, steps=1)
    assert images.shape == (2, 4, 64, 64, 3)
    scores = asked.scored(loaded, images, concept)
    exchanged = Prompted(subject.prompts[::-1], metrics).scored(loaded, images, concept)
    plain = ["a dog in the snow"] * 4 + ["a red dog"] * 4
    flat = [Image.fromarray(image) for image in images.reshape(-1, 64, 64, 3)]
    expected = metrics.scores(flat, concept.references, plain)
    assert {name: scores[name] for name in PUBLISHED} == {name: round(value, 4) for name, value in expected.items()}
    text = {"opad_clip_t", "dreambooth_clip_t", "text_fit", "scene_accuracy"}
    assert all(exchanged[name] == scores[name] for name in scores.keys() - text)
    assert all(exchanged[name] != scores[name] for name in ("opad_clip_t", "dreambooth_clip_t", "text_fit"))
    assert loaded.manifest.scene_prompts == base.manifest.scene_prompts, "the base asks for its own scenes"
