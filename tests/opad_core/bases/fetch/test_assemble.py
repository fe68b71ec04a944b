import hashlib
import json
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from opad_core.__main__ import main
from opad_core.bases.fetch.mirrors import NOTE, NOTES
from opad_core.bases.fetch.recipes import CLIP, DINO, DINOV2, SD_2_1, SD_TURBO
from opad_core.bases.loading import load_base
from opad_core.bases.manifest import read_manifest
from opad_core.generation.bundle import read_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.opad.config import preset
from opad_core.methods.train import train
from opad_core.training.config import override
from tests.hub_mirror import EMBEDDING, WIDTH

SHORT = {"iterations": 1, "collaborative_iterations": 1, "samples": 2, "batch_size": 1, "swd_projections": 4}
UNET = f"{SD_TURBO.name}/unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fetched") / "base"
    assert main(["fetch", "sd-turbo", "--from", str(published), "--to", str(folder)]) == 0
    return load_base(str(folder), device="cpu")


def refusal(capsys, mirror):
    """Return the message of a `fetch` that fails."""
    assert main(["fetch", "sd-turbo", "--from", str(mirror)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("opad: ")
    return error


def note(mirror, repository, path, revision, sha256):
    """Write the metadata that `hf download --local-dir` writes beside a file."""
    file = mirror / repository.name / f"{NOTES}{path}{NOTE}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{revision}\n{sha256}\n1700000000.0\n")


def test_a_concept_is_learned_and_generated_on_an_assembled_base(base, references):
    every_iteration_has_a_target = {"max_target_timestep": 1.0}
    config = override(preset("default", base.manifest.presets), SHORT | every_iteration_has_a_target)
    losses = []
    bundle = train(
        base, references, "dog", config, seed=0, report=lambda p: losses.append(p.losses[-1]), should_stop=lambda: False
    )
    assert [sorted(step) for step in losses] == [sorted(losses[0])] * 2
    assert all(value == value for step in losses for value in step.values())
    learned = read_bundle(bundle)
    requests = [ImageRequest(learned, "a <concept> on the beach", 1), ImageRequest(None, "a dog on the beach", 1)]
    mine, untouched = OneStepGenerator(base).generate(requests)
    assert mine.shape == (128, 128, 3)
    assert (mine != untouched).any()


def test_fetched_weights_are_the_published_ones(base, published):
    theirs = load_file(published / SD_2_1.name / "text_encoder" / "model.safetensors")
    ours = base.text.encoder.state_dict()
    assert len(ours) == len(theirs) - 1  # all but the table of positions
    assert all(torch.equal(theirs[f"text_model.{name}"], x) for name, x in ours.items())
    dino = load_file(published / DINO.name / "model.safetensors")
    [_, dinov2, _] = base.backbones
    assert torch.equal(dino["embeddings.cls_token"], base.backbones[0].network.network.embeddings.cls_token)
    assert (dinov2.input_size, base.manifest.resolution, base.manifest.identity_tokens) == (28, 128, 4)
    assert (base.teacher.prediction_type, base.student.prediction_type) == ("v_prediction", "epsilon")


def test_the_students_own_text_encoder_is_compared_and_not_kept(base):
    layers = 2 * 16  # each has two norms, two layers of its MLP and four of its attention, with weight and bias
    assert base.manifest.student_text_encoder == {"tensors": layers + 4, "different": [], "largest": 0.0}
    assert not list(base.folder.rglob("student/text_encoder*"))


def test_a_student_with_another_text_encoder_is_told(mirror, bases, capsys):
    file = mirror / SD_TURBO.name / "text_encoder" / "model.safetensors"
    name = "text_model.final_layer_norm.bias"
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name] + 0.25, "extra": torch.zeros(1)}, file)
    assert main(["fetch", "sd-turbo", "--from", str(mirror)]) == 0
    found = read_manifest(bases / "sd-turbo").student_text_encoder
    assert (found["different"], found["largest"]) == (["extra", name], 0.25)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "one text encoder" in line]
    assert line.startswith("failed  one text encoder for teacher and student: 35 of 37 tensors")
    assert f"extra, {name} and so on differ by up to 0.25" in line


def test_fetch_and_doctor_check_what_fits_the_machine(mirror, bases, capsys):
    """Random networks fail those that need trained weights, but compute what diffusers computes."""
    assert main(["fetch", "sd-turbo", "--from", str(mirror)]) == 0
    lines = capsys.readouterr().out.partition("checking the weights")[2].splitlines()[1:]
    passed = {line.removeprefix("passed").strip().partition(":")[0] for line in lines if line.startswith("passed")}
    assert passed >= {
        "one text encoder for teacher and student", "noise schedule", "prediction types", "padding",
        "same images as diffusers",
    }  # fmt: skip
    assert any(line.startswith("failed  tokens of the prompts: 0 of 45 prompts") for line in lines)
    assert any(line.startswith("failed  autoencoder: photos come back with") for line in lines)

    assert main(["doctor", "--base", "sd-turbo", "--device", "cpu", "--only-checks"]) == 1
    *again, learning, counted, _ = capsys.readouterr().out.splitlines()
    assert (again, counted[:9]) == (lines[:-1], lines[-1][:9])
    assert learning == "skipped learning: 50 iterations take hours on a CPU; run it on a machine with a GPU"


def test_prompts_go_through_clips_whole_text_encoder(base, published):
    """Two layers are in SD's encoder; the last layer and the projection come from CLIP itself."""
    encoder = base.text.encoder
    config = {**encoder.config.to_dict(), "num_hidden_layers": 3, "projection_dim": EMBEDDING}
    clip = CLIPTextModelWithProjection(CLIPTextConfig(**config)).eval()
    weights = {f"text_model.{name}": x for name, x in encoder.state_dict().items()}
    for name, x in load_file(published / CLIP.name / "model.safetensors").items():
        weights[name.replace("layers.23.", "layers.2.")] = x
    weights = {name: x for name, x in weights.items() if "layers.22." not in name}
    clip.load_state_dict(weights)
    prompts = ["a dog in the snow", "a photo of a dog"]
    ids = torch.tensor([base.text.token_ids(prompt, "")[0] for prompt in prompts])
    clip.text_model.eos_token_id = base.text.tokenizer.eos_token_id
    with torch.no_grad():
        expected = torch.nn.functional.normalize(clip(input_ids=ids).text_embeds, dim=-1)
    assert base.text_projection.shape == (EMBEDDING, WIDTH)
    torch.testing.assert_close(base.embedded_prompts(prompts), expected, atol=1e-5, rtol=0)  # float32 sums of 32


def test_half_precision_is_placed_by_network(base):
    half = load_base(str(base.folder), device="cpu", precision="half")
    assert (half.teacher.unet.dtype, half.student.unet.dtype) == (torch.bfloat16, torch.float16)
    assert {backbone.dtype for backbone in half.backbones} == {torch.bfloat16}


def test_a_base_is_found_by_its_name_once_it_is_fetched(mirror, bases, tmp_path, capsys):
    generate = [
        "generate",
        "--base",
        "sd-turbo",
        "--prompt",
        "a dog on the beach",
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    assert main(generate) == 1
    missing = capsys.readouterr().err
    assert missing.startswith(f"opad: the base 'sd-turbo' is not at {bases / 'sd-turbo'} (OPAD_BASES_DIR")
    assert missing.endswith(f"`{sys.executable} -m opad_core fetch sd-turbo`\n")

    assert main(["fetch", "sd-turbo", "--from", str(mirror)]) == 0
    printed = capsys.readouterr().out
    assert f"{SD_TURBO.name} at b261bac: Stability AI's" in printed
    assert "Apache-2.0" in printed
    assert sorted(path.name for path in bases.iterdir()) == ["sd-turbo"]
    assert main(generate) == 0
    assert Image.open(tmp_path / "0.png").size == (128, 128)

    assert "already exists" in refusal(capsys, mirror)


def test_a_pickle_is_refused_before_anything_is_copied(mirror, bases, capsys):
    (mirror / DINO.name / "model.safetensors").rename(mirror / DINO.name / "pytorch_model.bin")
    assert "has pytorch_model.bin but no model.safetensors; pickles can run any code" in refusal(capsys, mirror)
    assert not bases.exists()


def test_a_mirror_without_a_repository_is_named(mirror, bases, capsys):
    (mirror / DINOV2.name).rename(mirror / "elsewhere")
    assert f"{DINOV2.name} at 47b73ee has no config.json here" in refusal(capsys, mirror)
    assert "is not a folder" in refusal(capsys, mirror / "nowhere")


def test_a_truncated_file_is_fetched_anew_and_the_others_are_kept(mirror, bases, capsys):
    whole = (mirror / UNET).read_bytes()
    (mirror / UNET).write_bytes(whole[:-100])
    assert f"{SD_TURBO.name}: unet/diffusion_pytorch_model.safetensors is damaged" in refusal(capsys, mirror)
    assert not (bases / "sd-turbo").exists()
    kept = bases / "sd-turbo.partial" / ".downloads" / SD_2_1.name / "unet" / "diffusion_pytorch_model.safetensors"
    before = kept.stat().st_ino

    (mirror / UNET).write_bytes(whole)
    assert main(["fetch", "sd-turbo", "--from", str(mirror)]) == 0
    assert (bases / "sd-turbo" / "teacher/unet/diffusion_pytorch_model.safetensors").stat().st_ino == before
    assert not (bases / "sd-turbo.partial").exists()


def test_metadata_of_the_download_is_checked_and_recorded(mirror, bases, capsys):
    path = "unet/diffusion_pytorch_model.safetensors"
    note(mirror, SD_TURBO, path, "f" * 40, "0" * 64)
    assert f"is from the commit {'f' * 40}, not {SD_TURBO.revision}" in refusal(capsys, mirror)
    note(mirror, SD_TURBO, path, SD_TURBO.revision, "0" * 64)
    assert f"{path} is damaged" in refusal(capsys, mirror)
    for name in ("config.json", "model.safetensors"):
        note(mirror, DINO, name, DINO.revision, hash_of(mirror / DINO.name / name))
    note(mirror, SD_TURBO, path, SD_TURBO.revision, hash_of(mirror / UNET))
    assert main(["fetch", "sd-turbo", "--from", str(mirror)]) == 0
    sources = read_manifest(bases / "sd-turbo").sources
    assert sources[DINO.name] == DINO.revision
    assert sources[SD_TURBO.name] is sources[DINOV2.name] is None


def test_parts_that_do_not_fit_are_refused(mirror, bases, capsys):
    config = mirror / SD_TURBO.name / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "cross_attention_dim": 768}))
    assert "the student reads text of the encoder's width" in refusal(capsys, mirror)


def test_a_network_that_lacks_weights_is_refused_when_it_is_loaded(mirror, bases, capsys):
    file = mirror / DINO.name / "model.safetensors"
    tensors = load_file(file)
    del tensors["embeddings.cls_token"]
    save_file(tensors, file)
    assert main(["fetch", "sd-turbo", "--from", str(mirror)]) == 0
    assert main(["doctor", "--base", "sd-turbo", "--device", "cpu"]) == 1
    assert "discriminators/dino lacks 1 tensors of a ViTModel, the first is embeddings.cls_token" in (
        capsys.readouterr().err
    )


def test_the_hashes_of_an_earlier_fetch_can_be_required(base, mirror, bases, capsys):
    again = ["fetch", "sd-turbo", "--from", str(mirror), "--like", str(base.folder)]
    assert main(again) == 0
    assert read_manifest(bases / "sd-turbo").sha256 == base.manifest.sha256
    other = mirror / SD_TURBO.name / "scheduler" / "scheduler_config.json"
    other.write_text(other.read_text() + "\n")
    assert main([*again, "--to", str(bases / "other")]) == 1
    assert (
        "files that differ from the given manifest: student/scheduler/scheduler_config.json\n"
        in capsys.readouterr().err
    )


def hash_of(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()
