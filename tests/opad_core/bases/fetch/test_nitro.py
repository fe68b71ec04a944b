"""Fetch the base whose student is published as a pickle, from a mirror of small networks."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from opad_core.__main__ import main
from opad_core.bases.fetch import no_network
from opad_core.bases.fetch.mirrors import NOTE, NOTES
from opad_core.bases.fetch.recipes import NITRO, RECIPES, SD_2_1_BASE
from opad_core.bases.loading import FETCHED, load_base
from opad_core.bases.manifest import hash_of, read_manifest
from opad_core.generation.generator import ImageRequest, OneStepGenerator, noise_of
from tests.hub_mirror import add_nitro, unet, write_mirror
from tests.opad_core.bases.fetch.test_hub import serve

COMMIT, PICKLE = "c" * 40, f"{NITRO.name}/nitro-1-sd.bin"
STUDENT = "student/unet/diffusion_pytorch_model.safetensors"

pytestmark = pytest.mark.skipif(
    no_network.command("") is None, reason="neither the kernel nor bubblewrap offers a network namespace here"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return add_nitro(write_mirror(tmp_path_factory.mktemp("mirror")))


@pytest.fixture(scope="module")
def base(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fetched") / "base"
    assert fetch(published, "--to", folder) == 0
    return load_base(str(folder), device="cpu")


def fetch(mirror, *options):
    return main(["fetch", "nitro-1-sd", "--skip-checks", "--from", str(mirror), *map(str, options)])


def note_commit(mirror, commit):
    """Write the metadata that `hf download --local-dir` writes beside the pickle."""
    file = mirror / NITRO.name / f"{NOTES}nitro-1-sd.bin{NOTE}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{commit}\n{hash_of(mirror / PICKLE)}\n1700000000.0\n")


def test_every_base_that_can_be_fetched_has_a_recipe():
    assert tuple(RECIPES) == FETCHED


def test_the_student_is_the_pickles(base, published):
    theirs = torch.load(published / PICKLE, weights_only=True)
    ours = load_file(base.folder / STUDENT)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert not list(base.folder.rglob("*.bin"))
    assert (base.student.prediction_type, base.student.first_scale) == ("epsilon", 1.0)


def test_an_image_is_the_one_that_amds_instructions_give(base, published):
    """SD 2.1-base's pipeline with the student's weights, DDPM's scheduler, one step at t = 999, no guidance."""
    folder = published / SD_2_1_BASE.name
    student = UNet2DConditionModel.from_pretrained(folder / "unet")
    student.load_state_dict(torch.load(published / PICKLE, weights_only=True))
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=student,
        scheduler=DDPMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    latents = noise_of(3, base.latent_shape)[None]
    [theirs] = pipeline(
        "a dog on the beach",
        num_inference_steps=1,
        timesteps=[999],
        guidance_scale=0,
        latents=latents,
        output_type="np",
    ).images
    [ours] = OneStepGenerator(base).generate([ImageRequest(None, "a dog on the beach", 3)])
    difference = np.abs(ours - 255 * theirs.astype(np.float64))
    # half a level for our rounding to 8 bits; float32 sums in another order are multiplied by 14.6 and the decoder
    assert difference.max() < 0.51
    assert ours.std() > 1


def test_a_fetch_ends_with_the_checks(published, bases, capsys):
    """Random networks pass those of files and of arithmetic; diffusers' image is made with AMD's scheduler."""
    assert main(["fetch", "nitro-1-sd", "--from", str(published)]) == 0
    lines = capsys.readouterr().out.partition("checking the weights")[2].splitlines()[1:]
    passed = {line.removeprefix("passed").strip().partition(":")[0] for line in lines if line.startswith("passed")}
    assert passed >= {"noise schedule", "prediction types", "padding", "same images as diffusers"}
    assert any(line.startswith("skipped one text encoder for teacher and student") for line in lines)


def test_the_manifest_records_the_commit_and_both_hashes(published, tmp_path, bases, capsys):
    mirror = shutil.copytree(published, tmp_path / "mirror")
    note_commit(mirror, COMMIT)
    assert fetch(mirror) == 0
    printed = capsys.readouterr().out
    assert "amd/Nitro-1-SD at ccccccc: Apache-2.0 by its tag; it was distilled from SD 2.1-base" in printed
    manifest = read_manifest(bases / "nitro-1-sd")
    assert manifest.sources[NITRO.name] == COMMIT
    pickled = {"repository": NITRO.name, "file": "nitro-1-sd.bin", "sha256": hash_of(published / PICKLE)}
    assert manifest.converted == {STUDENT: pickled}
    assert manifest.files[STUDENT] == hash_of(bases / "nitro-1-sd" / STUDENT)


def test_another_commit_or_pickle_than_the_recorded_one_is_refused(published, tmp_path, bases, capsys):
    mirror = shutil.copytree(published, tmp_path / "mirror")
    note_commit(mirror, COMMIT)
    assert fetch(mirror, "--to", tmp_path / "first") == 0
    recorded = read_manifest(tmp_path / "first")
    again = ("--like", tmp_path / "first")
    note_commit(mirror, "d" * 40)
    assert fetch(mirror, *again) == 1
    assert f"{PICKLE} here is from the commit {'d' * 40}, not {COMMIT}" in capsys.readouterr().err
    torch.save({name: x + 1 for name, x in unet().state_dict().items()}, mirror / PICKLE)
    note_commit(mirror, COMMIT)
    assert fetch(mirror, *again) == 1
    assert f"{PICKLE} differs from that of the given manifest" in capsys.readouterr().err
    assert not (bases / "nitro-1-sd").exists()
    shutil.copyfile(published / PICKLE, mirror / PICKLE)
    note_commit(mirror, COMMIT)
    assert fetch(mirror, *again) == 0
    assert read_manifest(bases / "nitro-1-sd").files == recorded.files


def test_the_hub_is_asked_for_the_recorded_commit(published, tmp_path, bases, monkeypatch):
    """Its newest commit is recorded by the first fetch. The second asks for that one, though a newer one exists."""
    with serve(published, newest=COMMIT, monkeypatch=monkeypatch) as (address, _):
        assert fetch(address, "--to", tmp_path / "first") == 0
    assert read_manifest(tmp_path / "first").sources[NITRO.name] == COMMIT
    with serve(published, newest="d" * 40, monkeypatch=monkeypatch) as (address, _):
        assert fetch(address, "--like", tmp_path / "first") == 0
    assert read_manifest(bases / "nitro-1-sd").sources[NITRO.name] == COMMIT


def test_a_pickle_of_another_network_is_refused_and_leaves_nothing(published, tmp_path, bases, capsys):
    mirror = shutil.copytree(published, tmp_path / "mirror")
    state = unet().state_dict()
    state["conv_in.weight"] = state["conv_in.weight"][:, :3].clone()
    torch.save(state, mirror / PICKLE)
    assert fetch(mirror) == 1
    error = capsys.readouterr().err
    assert f"{PICKLE} is not the network that was expected: conv_in.weight has the shape [32, 3, 3, 3]" in error
    left = [file.name for file in bases.rglob("*") if file.is_file()]
    assert "config.json" in left  # what was downloaded is kept for the next try
    assert not (bases / "nitro-1-sd").exists()
    assert "nitro-1-sd.bin" not in left
    assert not (bases / "nitro-1-sd.partial" / STUDENT).exists()


def test_a_teachers_configuration_that_cannot_be_read_is_a_sentence(published, tmp_path, bases, capsys):
    mirror = shutil.copytree(published, tmp_path / "mirror")
    config = mirror / SD_2_1_BASE.name / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "block_out_channels": [32]}))
    assert fetch(mirror) == 1
    assert "the configuration of the UNet cannot be read" in capsys.readouterr().err
