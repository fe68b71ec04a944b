import json

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load
from transformers import CLIPTextModel, CLIPTokenizer

from opad_core.errors import OpadError
from opad_core.generation.bundle import read_bundle
from opad_core.generation.export import export_bundle, truncated
from opad_core.generation.generator import ImageRequest, OneStepGenerator, noise_of
from tests.opad_core.generation.test_generation import random_bundle

FULL_RANK = 1000


@pytest.fixture(scope="module")
def bundle(base):
    return read_bundle(random_bundle(base, 3))


def stock_pipeline(base):
    """Return diffusers' pipeline with the base's student. It returns latents, since it does not support this VAE."""
    folder = base.folder
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(folder / "student" / "unet", torch_dtype=torch.float32),
        scheduler=EulerDiscreteScheduler.from_pretrained(folder / "student" / "scheduler", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.mark.slow  # diffusers loads a LoRA with peft
@pytest.mark.parametrize("file", ["unet_lora.safetensors", "kohya_lora.safetensors"])
def test_a_stock_pipeline_generates_the_same_image(base, bundle, tmp_path, file):
    for name, content in export_bundle(bundle, base, rank=FULL_RANK).items():
        (tmp_path / name).write_bytes(content)
    pipeline = stock_pipeline(base)
    pipeline.load_lora_weights(tmp_path, weight_name=file)
    pipeline.load_textual_inversion(tmp_path, weight_name="embedding.safetensors", token="<concept>")
    latents = pipeline(
        f"a <concept> {bundle.class_noun} on the beach",
        num_inference_steps=1,
        guidance_scale=0.0,
        latents=noise_of(5, base.latent_shape)[None],
        output_type="latent",
        return_dict=False,
    )[0]
    theirs = base.decode(latents)
    [ours] = OneStepGenerator(base).generate([ImageRequest(bundle, "a <concept> on the beach", 5)])
    pixels = theirs[0].clamp(-1, 1).add(1).mul(127.5).permute(1, 2, 0)
    # The bundle is in half precision and the factors in single, so only rounding to one of 256 levels remains.
    assert (pixels - torch.from_numpy(ours).float()).abs().max() <= 1
    [untouched] = OneStepGenerator(base).generate([ImageRequest(None, "a dog on the beach", 5)])
    assert abs(untouched.astype(int) - ours).max() > 20


def test_a_truncated_matrix_keeps_its_largest_directions():
    matrix = torch.diag(torch.tensor([5.0, 3.0, 4.0]))
    kept = truncated(matrix, 2)
    assert torch.allclose(kept.up @ kept.down, torch.diag(torch.tensor([5.0, 0.0, 4.0])), atol=1e-6)


def test_the_export_says_what_its_rank_lost(base, bundle):
    errors = [
        json.loads(export_bundle(bundle, base, rank=r)["export.json"])["relative_error"] for r in (1, 16, FULL_RANK)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_kohya_files_carry_the_metadata_that_tools_look_for(base, bundle, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(export_bundle(bundle, base, rank=4)["kohya_lora.safetensors"])
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        metadata = file.metadata()
    assert (metadata["ss_network_dim"], metadata["ss_v2"]) == ("4", "True")
    tensors = load((tmp_path / "x.safetensors").read_bytes())
    modules = {name.split(".")[0] for name in tensors}
    assert len(tensors) == 3 * len(modules)
    assert len(modules) == 2 * len(base.student.layers)


def test_a_bundle_of_another_base_is_refused(base):
    foreign = read_bundle(random_bundle(base, 3, base_sha256="0" * 64))
    with pytest.raises(OpadError, match="learned on another base"):
        export_bundle(foreign, base)


def test_a_rank_below_one_is_refused(base, bundle):
    with pytest.raises(OpadError, match="at least 1, got 0"):
        export_bundle(bundle, base, rank=0)
