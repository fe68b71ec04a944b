import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file

from opad_core.__main__ import main
from opad_core.errors import OpadError
from opad_core.evaluation.curves import read_losses
from opad_core.generation.bundle import read_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.generation.many_step import teacher_image
from opad_core.training.state import FORMAT
from tests.opad_core.generation.test_generation import random_bundle
from tests.random_base import SHORT, add_fast_decoder, add_scene_prompts


@pytest.fixture(scope="module")
def reference_folder(references, tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    for i, image in enumerate(references):
        image.save(folder / f"{i}.jpg")
    return folder


def test_train_then_generate_without_any_server(base, reference_folder, tmp_path):
    concept, out = tmp_path / "my concept", tmp_path / "out"
    common = ["--base", str(base.folder)]
    assert main(["train", "--images", str(reference_folder), "--class", "dog", "--out", str(concept), *common]) == 0
    written = ["concept.safetensors", "loss.png", "losses.jsonl", "preview.png", "report.json", "report.png"]
    assert sorted(p.name for p in concept.iterdir()) == written
    assert len(read_losses(concept / "losses.jsonl")) == SHORT["iterations"] + SHORT["collaborative_iterations"]
    prompt = "a <concept> on the beach"
    assert (
        main(["generate", "--concept", str(concept), "--prompt", prompt, "--out", str(out), "--count", "2", *common])
        == 0
    )
    assert [Image.open(out / f"{seed}.png").size for seed in (0, 1)] == [(64, 64), (64, 64)]
    files = [concept / "preview.png", out / "1.png", concept / "report.png"]
    preview, image, sheet = (Image.open(file).info["XML:com.adobe.xmp"] for file in files)
    assert "digitalsourcetype/trainedAlgorithmicMedia" in preview
    assert "digitalsourcetype/trainedAlgorithmicMedia" in image
    assert f'opad:model="{base.manifest.name}" opad:seed="1"' in image
    assert "beach" not in image
    assert "digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in sheet, "it shows the photos, too"


def test_a_kept_teacher_generates_in_many_steps(base, reference_folder, tmp_path, capsys):
    concept, common = tmp_path / "concept", ["--base", str(base.folder)]
    learn = ["train", "--images", str(reference_folder), "--class", "dog", "--out", str(concept), *common]
    prompt = ["--prompt", "a <concept> on the beach", "--concept", str(concept), *common]
    assert main([*learn, "--keep-teacher"]) == 0
    few = ["generate", *prompt, "--teacher", "--steps", "3"]
    assert main([*few, "--out", str(tmp_path / "guided")]) == 0
    assert main([*few, "--guidance", "1", "--out", str(tmp_path / "plain")]) == 0
    guided, plain = ((tmp_path / name / "0.png").read_bytes() for name in ("guided", "plain"))
    assert guided != plain
    with Image.open(tmp_path / "plain" / "0.png") as image:
        assert image.size == (64, 64)
        assert "digitalsourcetype/trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]

    without_guidance = shutil.copytree(base.folder, tmp_path / "base")
    manifest = json.loads((without_guidance / "manifest.json").read_text())
    manifest["presets"]["default"]["guidance"] = 1.0
    (without_guidance / "manifest.json").write_text(json.dumps(manifest))
    assert main([*few, "--base", str(without_guidance), "--out", str(tmp_path / "as the base says")]) == 0
    assert (tmp_path / "as the base says" / "0.png").read_bytes() == plain

    assert main([*learn, "--force"]) == 0  # replaces the concept, and so its teacher
    capsys.readouterr()
    assert main([*few, "--out", str(tmp_path / "none")]) == 1
    remedy = f"`{sys.executable} -m opad_core train --keep-teacher` writes one"
    assert capsys.readouterr().err == f"opad: {concept} holds no teacher.safetensors; {remedy}\n"


@pytest.mark.parametrize("method", ["custom_diffusion", "dreambooth"])
def test_another_method_learns_and_has_a_report_card(base, reference_folder, tmp_path, method):
    common = ["--base", str(base.folder)]
    learn = ["train", "--images", str(reference_folder), "--class", "dog", "--out", str(tmp_path), *common]
    short = ["--iterations", "3", "--set", "class_images=2"]
    assert main([*learn, "--method", method, *short]) == 0
    bundle = read_bundle((tmp_path / "concept.safetensors").read_bytes())
    assert bundle.manifest["method"] == method
    assert bundle.manifest["config"]["class_images"] == 2
    assert [set(row) >= {"rec", "prior"} for row in read_losses(tmp_path / "losses.jsonl")] == [True] * 3
    assert (tmp_path / "report.json").exists()
    prompt = ["--prompt", "a <concept> on the beach", "--out", str(tmp_path / "images")]
    assert main(["generate", "--concept", str(tmp_path), *prompt, *common]) == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--preset", "paper"], "the preset 'paper' belongs to the method opad; lora has only the preset default"),
        (["--ablation", "no-clip"], "--ablation belongs to the method opad, not to lora; leave it out"),
        (
            ["--collaborative-iterations", "0"],
            "--collaborative-iterations belongs to the method opad, not to lora; leave it out",
        ),
        (["--keep-teacher"], "--keep-teacher belongs to the method opad, not to lora; leave it out"),
    ],
)
def test_an_option_of_opad_is_refused_beside_another_method(
    base, reference_folder, tmp_path, capsys, options, sentence
):
    learn = ["train", "--images", str(reference_folder), "--class", "dog", "--out", str(tmp_path / "concept")]
    assert main([*learn, "--base", str(base.folder), "--method", "lora", *options]) == 1
    assert capsys.readouterr().err == f"opad: {sentence}\n"
    assert not (tmp_path / "concept").exists()


def test_student_and_teacher_do_not_take_each_others_bundle(base):
    student = read_bundle(random_bundle(base, 1))
    teacher = dataclasses.replace(student, network="teacher")
    with pytest.raises(OpadError, match="the bundle is of the teacher, which generates in many steps"):
        OneStepGenerator(base).generate([ImageRequest(teacher, "a <concept>", 0)])
    with pytest.raises(OpadError, match="the bundle is of the student, which generates in one step"):
        teacher_image(base, student, "a <concept>", 0)


def test_a_teacher_needs_the_concept_in_the_prompt_and_at_least_one_step(base):
    teacher = dataclasses.replace(read_bundle(random_bundle(base, 1)), network="teacher")
    with pytest.raises(OpadError, match="does not name <concept>"):
        teacher_image(base, teacher, "a dog", 0)
    with pytest.raises(OpadError, match=r"steps must be in 1\.\.1000, got 0"):
        teacher_image(base, teacher, "a <concept>", 0, steps=0)


def test_a_concept_of_another_base_is_one_sentence_with_the_remedy(base, tmp_path, capsys):
    (tmp_path / "concept.safetensors").write_bytes(random_bundle(base, 1, base_sha256="0" * 64))
    prompt = ["--prompt", "a <concept>", "--out", str(tmp_path / "out")]
    assert main(["generate", "--concept", str(tmp_path), "--base", str(base.folder), *prompt]) == 1
    assert capsys.readouterr().err == (
        "opad: the concept was learned on another base (nano 000000000000) than the one loaded "
        f"(nano {base.manifest.sha256[:12]}); train it again, or load that base\n"
    )


def test_generate_uses_the_decoder_that_is_named(base, tmp_path, capsys):
    def generate(folder, out, *options):
        return main(["generate", "--prompt", "a dog", "--out", str(tmp_path / out), "--base", str(folder), *options])

    assert generate(base.folder, "none", "--decoder", "fast") == 1
    assert capsys.readouterr().err == "opad: the base 'nano' has no fast decoder here\n"
    with_fast = shutil.copytree(base.folder, tmp_path / "base")
    add_fast_decoder(with_fast)
    assert generate(with_fast, "fast", "--decoder", "fast") == generate(with_fast, "full") == 0
    fast, full = (Image.open(tmp_path / out / "0.png").tobytes() for out in ("fast", "full"))
    assert fast != full


def test_generate_warns_of_words_that_do_not_reach_the_image(base, tmp_path, capsys):
    prompt = "a zebra " + "on the beach " * 7
    assert main(["generate", "--prompt", prompt, "--out", str(tmp_path), "--base", str(base.folder)]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "opad: nano does not know 'zebra' and may ignore it",
        "opad: the prompt is longer than nano reads; it ignores the end: 'the beach on the beach'",
    ]


def test_generate_says_when_its_images_are_alike(base, tmp_path, capsys):
    """The last layer of this base's decoder is zero, so every image is the same gray."""
    folder = shutil.copytree(base.folder, tmp_path / "base")
    weights = "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(folder / weights)
    for name in [name for name in tensors if name.startswith("decoder.conv_out.")]:
        tensors[name].zero_()
    save_file(tensors, folder / weights)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][weights] = hashlib.sha256((folder / weights).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    command = ["generate", "--prompt", "a dog", "--count", "4", "--out", str(tmp_path), "--base", str(folder)]
    assert main(command) == 0
    assert capsys.readouterr().err.startswith("opad: the images of these 4 seeds are nearly alike")


def test_the_limits_of_the_base_are_told_before_the_training(base, reference_folder, tmp_path, capsys):
    folder = shutil.copytree(base.folder, tmp_path / "base")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"limits": "It draws."}))
    arguments = ["--images", str(reference_folder), "--class", "dog", "--out", str(tmp_path / "out")]
    assert main(["train", "--base", str(folder), *arguments]) == 0
    assert capsys.readouterr().err.startswith("opad: It draws.\n")


def test_train_says_when_and_why_it_ended_early(base, reference_folder, tmp_path, capsys):
    folder = shutil.copytree(base.folder, tmp_path / "base")
    add_scene_prompts(folder)
    early = [f"--set={setting}" for setting in ("eval_every=1", "patience=1", "min_gain=9")]  # no score rises by 9
    arguments = ["--images", str(reference_folder), "--class", "dog", "--out", str(tmp_path / "c"), *early]
    assert main(["train", "--base", str(folder), *arguments]) == 0
    assert "Learned after 2 of at most 6 iterations: the score on held-out scenes rose by " in capsys.readouterr().out
    assert len(read_losses(tmp_path / "c" / "losses.jsonl")) == 2


@pytest.mark.parametrize("count", [1, 6])
def test_one_reference_and_six_are_learned(base, references, tmp_path, count):
    reference_folder, concept = tmp_path / "references", tmp_path / "concept"
    reference_folder.mkdir()
    for i in range(count):
        references[i % 4].rotate(90 * (i // 4), expand=True).save(reference_folder / f"{i}.png")
    common = ["--images", str(reference_folder), "--base", str(base.folder)]
    assert main(["train", "--class", "dog", "--out", str(concept), *common]) == 0
    report = (concept / "report.json").read_text()
    assert main(["evaluate", "--concept", str(concept), *common]) == 0
    assert (concept / "report.json").read_text() == report


def test_an_interrupted_training_continues(base, reference_folder, tmp_path):
    arguments = ["--images", str(reference_folder), "--class", "dog", "--base", str(base.folder), "--iterations", "12"]
    assert main(["train", *arguments, "--out", str(tmp_path / "uninterrupted")]) == 0
    command = [sys.executable, "-m", "opad_core", "train", *arguments, "--out", str(tmp_path / "stopped")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        # as many threads as here, because sums in another order differ in the last bit
        env=os.environ | {"TQDM_MININTERVAL": "0", "OMP_NUM_THREADS": str(torch.get_num_threads())},
    ) as run:  # fmt: skip
        seen = ""
        while " 3/14" not in seen and (character := run.stderr.read(1)):
            seen += character
        run.send_signal(signal.SIGINT)
        seen += run.stderr.read()
    assert run.returncode == 130, seen
    assert main(["train", *arguments, "--out", str(tmp_path / "stopped")]) == 0
    bundles = [(tmp_path / name / "concept.safetensors").read_bytes() for name in ("uninterrupted", "stopped")]
    assert bundles[0] == bundles[1]


def test_a_checkpoint_of_an_older_version_starts_the_training_again(base, reference_folder, tmp_path, capsys):
    out = tmp_path / "concept"
    out.mkdir()
    old = save({"token_row": torch.zeros(4)}, metadata={"state": json.dumps({"format": 4, "step": 3, "rate": 1.0})})
    (out / "checkpoint.safetensors").write_bytes(old)
    (out / "losses.jsonl").write_text('{"rec": 1.0}\n' * 3)
    arguments = ["--images", str(reference_folder), "--class", "dog", "--base", str(base.folder), "--out", str(out)]
    assert main(["train", *arguments]) == 0
    assert f"has format 4; this version reads format {FORMAT}; the training starts again" in capsys.readouterr().err
    assert len(read_losses(out / "losses.jsonl")) == SHORT["iterations"] + SHORT["collaborative_iterations"]


def test_a_learned_concept_is_evaluated_and_exported(base, reference_folder, tmp_path, capsys):
    concept, common = tmp_path / "concept", ["--base", str(base.folder)]
    assert main(["train", "--images", str(reference_folder), "--class", "dog", "--out", str(concept), *common]) == 0
    report = (concept / "report.json").read_text()
    again = [
        "evaluate",
        "--concept",
        str(concept),
        "--images",
        str(reference_folder),
        "--out",
        str(tmp_path / "again"),
        *common,
    ]
    assert main(again) == 0
    assert (tmp_path / "again" / "report.json").read_text() == report
    assert "identity" in capsys.readouterr().out
    assert main(["export", "--concept", str(concept), "--out", str(tmp_path / "exported"), *common]) == 0
    files = sorted(p.name for p in (tmp_path / "exported").iterdir())
    assert files == ["embedding.safetensors", "export.json", "kohya_lora.safetensors", "unet_lora.safetensors"]
    assert "prompt: '<concept> dog'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--images", "/nowhere", "--class", "dog", "--out", "x"], "there is no folder /nowhere"),
        (
            ["generate", "--concept", "/nowhere", "--prompt", "a <concept>", "--out", "x"],
            "holds no concept.safetensors",
        ),
        (["generate", "--base", "/nowhere", "--prompt", "a dog", "--out", "x"], "no base at /nowhere"),
    ],
)
def test_a_users_mistake_is_a_clear_error(base, arguments, sentence, capsys):
    if "--base" not in arguments:
        arguments = [*arguments, "--base", str(base.folder)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("opad: ")
    assert sentence in error
    assert "Traceback" not in error
