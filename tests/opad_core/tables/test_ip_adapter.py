"""IP-Adapter with TCD on a tiny random SDXL of the real classes."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    TCDScheduler,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from opad_core.__main__ import main
from opad_core.errors import OpadError
from opad_core.networks.tokenizer import build_tokenizer
from opad_core.tables.ip_adapter import (
    ADAPTER,
    ADAPTER_FILE,
    ADAPTER_FOLDER,
    ENCODER,
    LORA,
    SDXL,
    IpAdapter,
    make_missing,
)
from opad_core.tables.runs_file import read_runs

pytestmark = pytest.mark.slow  # needs peft, which makes every start of a program slower where it is installed
WIDTH, EMBEDDING = 32, 24


def small_unet():
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=(2, 4), norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True, cross_attention_dim=2 * WIDTH, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Write `folder/<owner>/<name>` with random weights of a tiny SDXL, LoRA and IP-Adapter."""
    folder = tmp_path_factory.mktemp("ip-adapter")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build_tokenizer(["a", "dog", "red"], folder / "words", length=16)
        text = CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, projection_dim=WIDTH, max_position_embeddings=16,
        )  # fmt: skip
        unet = small_unet()
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=32,
        )  # fmt: skip
        StableDiffusionXLPipeline(
            vae=vae, unet=unet, text_encoder=CLIPTextModel(text), text_encoder_2=CLIPTextModelWithProjection(text),
            tokenizer=tokenizer, tokenizer_2=tokenizer, scheduler=EulerDiscreteScheduler(),
        ).save_pretrained(folder / SDXL)  # fmt: skip
        _write_lora(folder / LORA)
        _write_adapter(folder / ADAPTER, unet)
    return folder


def _write_lora(folder):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = small_unet()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
    layers = {name: torch.randn_like(tensor) for name, tensor in get_peft_model_state_dict(unet).items()}
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=layers)


def _write_adapter(folder, unet):
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=224,
        patch_size=56, projection_dim=EMBEDDING,
    )  # fmt: skip
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / ENCODER)
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * 2 * WIDTH, EMBEDDING),
        "image_proj.proj.bias": torch.randn(4 * 2 * WIDTH),
        "image_proj.norm.weight": torch.ones(2 * WIDTH),
        "image_proj.norm.bias": torch.zeros(2 * WIDTH),
    }
    layers = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(layers):
        inner = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
        for kind in ("k", "v"):
            tensors[f"ip_adapter.{2 * number + 1}.to_{kind}_ip.weight"] = torch.randn(inner, 2 * WIDTH)
    (folder / ADAPTER_FOLDER).mkdir(parents=True)
    save_file(tensors, folder / ADAPTER_FOLDER / ADAPTER_FILE)


@pytest.fixture(scope="module")
def adapter(weights):
    return IpAdapter(weights, torch.device("cpu"))


def test_one_evaluation_gives_an_image_of_the_photos(adapter, references):
    calls = []
    hook = adapter.pipeline.unet.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[1]))
    image, again = (adapter.image(references, "a red dog", 0) for _ in range(2))
    hook.remove()
    assert [int(t) for t in calls] == [999, 999]
    assert isinstance(adapter.pipeline.scheduler, TCDScheduler)
    assert np.array_equal(image, again)
    assert not np.array_equal(image, adapter.image(references, "a red dog", 1)), "the seed"
    assert not np.array_equal(image, adapter.image(references[:1], "a red dog", 0)), "all photos count"
    assert not np.array_equal(image, adapter.image(references, "a dog", 0)), "the prompt"


def test_tcds_lora_changes_the_image(weights, adapter, references, tmp_path):
    plain = shutil.copytree(weights, tmp_path / "plain")
    _zero(plain / LORA / "pytorch_lora_weights.safetensors")
    without = IpAdapter(plain, torch.device("cpu")).image(references, "a red dog", 0)
    assert not np.array_equal(without, adapter.image(references, "a red dog", 0))


def _zero(file):
    from safetensors.torch import load_file

    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}, file)


def test_only_missing_images_are_made(adapter, references, tmp_path):
    files = [[tmp_path / "01" / f"{seed}.png" for seed in range(2)]]
    (tmp_path / "01").mkdir()
    files[0][0].write_text("kept")
    make_missing(adapter, references, ["a dog"], files)
    assert files[0][0].read_text() == "kept"
    assert files[0][1].read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", [SDXL, LORA, ADAPTER])
def test_what_is_missing_is_named_with_its_download(weights, tmp_path, name):
    copy = shutil.copytree(weights, tmp_path / "copy")
    shutil.rmtree(copy / name)
    with pytest.raises(OpadError, match=rf"is missing; `hf download {name} .* --local-dir {copy / name}` downloads it"):
        IpAdapter(copy, torch.device("cpu"))


def test_weights_that_do_not_fit_are_refused(weights, tmp_path):
    copy = shutil.copytree(weights, tmp_path / "copy")
    save_file({"image_proj.proj.weight": torch.zeros(2, 2)}, copy / ADAPTER / ADAPTER_FOLDER / ADAPTER_FILE)
    with pytest.raises(OpadError, match="cannot be loaded"):
        IpAdapter(copy, torch.device("cpu"))


def test_the_command_adds_it_as_a_row(folder, weights, tmp_path):
    """The base is not nano, whose scenes alone have a judge."""
    manifest = folder / "base" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"name": "tiny"}))
    options = [
        "tables", "--base", str(folder / "base"), "--device", "cpu", "--photos", str(folder / "dog one"),
        "--work", str(tmp_path / "work"), "--seeds", "1", "--protocol", "nano", "--methods", "textual_inversion",
        "--out", str(tmp_path / "out"), "--ip-adapter",
    ]  # fmt: skip
    assert main([*options, str(tmp_path)]) == 1, "without weights"
    assert not (tmp_path / "out").exists()
    assert main([*options, str(weights)]) == 0
    assert [run["row"] for run in read_runs(tmp_path / "out" / "runs.jsonl")] == ["ip_adapter", "textual_inversion"]
    assert "| IP-Adapter (TCD and SDXL) | 1 | 1 | 1 |" in (tmp_path / "out" / "README.md").read_text()
    assert len(list((tmp_path / "work").glob("ip_adapter-nano-*/dog one/*/*.png"))) == 8 * 4
