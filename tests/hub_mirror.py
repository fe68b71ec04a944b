"""A mirror of the repositories of the bases with the same files and tensor names, but tiny random networks."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from opad_core.bases.fetch.description import SCENE_PROMPTS
from opad_core.bases.fetch.recipes import CLIP, DINO, DINOV2, IP_ADAPTER, NITRO, SD_2_1, SD_2_1_BASE, SD_TURBO, TAESD
from opad_core.nano.build.vocabulary import TEMPLATES
from opad_core.networks.tokenizer import build_tokenizer

WORDS = sorted({word for text in (*(t.text for t in TEMPLATES), *SCENE_PROMPTS, "dog !") for word in text.split()})
WIDTH, EMBEDDING, IDENTITY_WIDTH = 32, 24, 16
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def write_mirror(folder: Path) -> Path:
    """Write `folder/<owner>/<name>/...` for every repository of the recipe "sd-turbo", for images of 128 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _write_stable_diffusion(folder / SD_2_1.name, DDIMScheduler(**BETAS, prediction_type="v_prediction"))
        turbo = folder / SD_TURBO.name
        unet().save_pretrained(turbo / "unet")
        EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing").save_pretrained(turbo / "scheduler")
        shutil.copytree(folder / SD_2_1.name / "text_encoder", turbo / "text_encoder")
        small = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        ViTModel(ViTConfig(**small, image_size=32)).save_pretrained(folder / DINO.name)
        Dinov2Model(Dinov2Config(**small, image_size=28, patch_size=14)).save_pretrained(folder / DINOV2.name)
        adapter = folder / IP_ADAPTER.name / "models"
        vision = CLIPVisionConfig(**small, image_size=32, patch_size=16, projection_dim=EMBEDDING)
        CLIPVisionModelWithProjection(vision).save_pretrained(adapter / "image_encoder")
        save_file(
            {
                "image_proj.proj.weight": torch.randn(4 * IDENTITY_WIDTH, EMBEDDING),
                "image_proj.proj.bias": torch.randn(4 * IDENTITY_WIDTH),
                "image_proj.norm.weight": torch.ones(IDENTITY_WIDTH),
                "image_proj.norm.bias": torch.zeros(IDENTITY_WIDTH),
                "ip_adapter.1.to_k_ip.weight": torch.randn(8, IDENTITY_WIDTH),
            },
            adapter / "ip-adapter_sd15.safetensors",
        )
        _write_clip(folder / CLIP.name)
        tiny_decoder(latent_channels=4).save_pretrained(folder / TAESD.name)
    return folder


def add_nitro(folder: Path) -> Path:
    """Add the repositories that only the recipe "nitro-1-sd" has: SD 2.1-base, and a pickled student."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
        _write_stable_diffusion(folder / SD_2_1_BASE.name, scheduler)
        config = folder / SD_2_1_BASE.name / "scheduler" / "scheduler_config.json"
        # as published, for the schedulers that read it
        _write_json(config, json.loads(config.read_text()) | {"clip_sample": False})
        (folder / NITRO.name).mkdir(parents=True)
        torch.save(unet().state_dict(), folder / NITRO.name / "nitro-1-sd.bin")
    return folder


def tiny_decoder(*, latent_channels: int) -> AutoencoderTiny:
    """Return a network of TAESD's architecture with 8 channels instead of 64. It enlarges eight times."""
    return AutoencoderTiny(
        latent_channels=latent_channels, encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
    )


def _write_stable_diffusion(folder: Path, scheduler: SchedulerMixin) -> None:
    tokenizer = build_tokenizer(WORDS, folder / "tokenizer", length=24)
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    added = {
        name: {"content": token, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        for name, token in special.items()
    }
    _write_json(folder / "tokenizer" / "special_tokens_map.json", {**added, "pad_token": "!"})
    _write_json(
        folder / "tokenizer" / "tokenizer_config.json",
        {**special, "model_max_length": 77, "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"},
    )
    encoder = text_encoder(layers=2, vocabulary=len(tokenizer))
    encoder.save_pretrained(folder / "text_encoder")
    # the names of transformers 4, and the table of positions that it stored with the weights
    tensors = {f"text_model.{name}": x.contiguous() for name, x in encoder.state_dict().items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    unet().save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
    ).save_pretrained(folder / "vae")


def _write_clip(folder: Path) -> None:
    folder.mkdir(parents=True)
    layer = text_encoder(layers=1, vocabulary=8).encoder.layers[0]
    tensors = {f"text_model.encoder.layers.23.{name}": x.contiguous() for name, x in layer.state_dict().items()}
    tensors["text_model.encoder.layers.22.mlp.fc1.bias"] = torch.randn(64)
    tensors["text_projection.weight"] = torch.randn(EMBEDDING, WIDTH)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def text_encoder(*, layers: int, vocabulary: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            hidden_act="gelu",
        )
    )


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 32),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        use_linear_projection=True,
    )


def _write_json(file: Path, content: dict[str, object]) -> None:
    file.write_text(json.dumps(content))
