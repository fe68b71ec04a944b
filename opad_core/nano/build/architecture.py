"""The networks of the nano base, and how they are written to a folder.

Every network is a class of diffusers or transformers, so that loading the base needs no code of ours. The sizes suit
two CPU cores. The autoencoder has no block at full resolution. The UNet works on 8x8 latents with many channels, which
trains on about twice as many images per second as 16x16 latents with few.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from opad_core.bases.manifest import FORMAT
from opad_core.networks.tokenizer import build_tokenizer

RESOLUTION = 64
LATENT_CHANNELS = 80
LATENT_SIZE = RESOLUTION // 8
TEXT_WIDTH = 128
TEXT_LENGTH = 24
FEATURE_WIDTH = 128
IDENTITY_TOKENS = 4
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PIXEL_STATISTICS = {"input": RESOLUTION, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def build_vae() -> AutoencoderDC:
    """Return the autoencoder: factor 8, with 2.4 times fewer numbers in latents than in pixels.

    autoencoder.py sets the encoder's weights in closed form; the encoder's blocks do nothing. The decoder produces
    pixels of one patch from different channels (pixel shuffle). AutoencoderTiny and AutoencoderKL upsample by repeating
    values, so they cannot tell these pixels apart. Both were worse than a linear decoder.
    """
    return AutoencoderDC(
        latent_channels=LATENT_CHANNELS,
        encoder_block_types=("ResBlock",) * 4,
        encoder_block_out_channels=(3, 12, 48, 192),
        encoder_layers_per_block=(0, 1, 1, 0),
        encoder_qkv_multiscales=((),) * 4,
        encoder_out_shortcut=False,
        decoder_block_types=("ResBlock",) * 4,
        decoder_block_out_channels=(16, 48, 96, 128),
        decoder_layers_per_block=(0, 1, 1, 1),
        decoder_qkv_multiscales=((),) * 4,
        decoder_in_shortcut=False,
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=1.0,
    )


def build_unet() -> UNet2DConditionModel:
    """Return the UNet. It has more parameters than three levels on 16x16 latents and is twice as fast.

    A concept changes nothing but keys and values, so the finer level has two transformer layers. With one layer of 96
    channels, an image fitted through keys and values kept a sixth more of its error.
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(128, 160),
        layers_per_block=1,
        transformer_layers_per_block=(2, 1),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,  # diffusers reads it as the number of heads
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=FEATURE_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


_VIT = {
    "hidden_size": FEATURE_WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": RESOLUTION,
    "patch_size": 8,
}


def build_dino() -> ViTModel:
    return ViTModel(ViTConfig(**_VIT, intermediate_size=4 * FEATURE_WIDTH), add_pooling_layer=False)


def build_dinov2() -> Dinov2Model:
    return Dinov2Model(Dinov2Config(**_VIT, mlp_ratio=4, layerscale_value=1.0))


def build_clip() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(**_VIT, intermediate_size=4 * FEATURE_WIDTH, projection_dim=FEATURE_WIDTH)
    )


class IdentityProjection(nn.Module):
    """IP-Adapter's image projection, from an image embedding [b, 128] to normalized tokens [b, 4, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(FEATURE_WIDTH, IDENTITY_TOKENS * TEXT_WIDTH)
        self.norm = nn.LayerNorm(TEXT_WIDTH)

    def forward(self, image_embeds: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(image_embeds).unflatten(1, (IDENTITY_TOKENS, TEXT_WIDTH)))
        return tokens


def build_text_projection() -> nn.Linear:
    """Return the projection of a caption's pooled embedding [b, 128] into the space of CLIP's image embeddings."""
    return nn.Linear(TEXT_WIDTH, FEATURE_WIDTH, bias=False)


def build_teacher_scheduler() -> DDIMScheduler:
    return DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False)


def build_student_scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**BETAS, prediction_type="v_prediction", timestep_spacing="trailing")


@dataclass
class Parts:
    """The contents of a base folder, in memory."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderDC
    teacher: UNet2DConditionModel
    student: UNet2DConditionModel
    dino: ViTModel
    dinov2: Dinov2Model
    clip: CLIPVisionModelWithProjection
    identity: IdentityProjection
    text_projection: nn.Linear


def build_parts(words: Sequence[str], folder: Path) -> Parts:
    """Return all networks with random weights. Writes the tokenizer's two files to `folder`."""
    tokenizer = build_tokenizer(words, folder, length=TEXT_LENGTH)
    return Parts(
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(tokenizer),
        vae=build_vae(),
        teacher=build_unet(),
        student=build_unet(),
        dino=build_dino(),
        dinov2=build_dinov2(),
        clip=build_clip(),
        identity=IdentityProjection(),
        text_projection=build_text_projection(),
    )


def write_base(folder: Path, parts: Parts, *, vocabulary: Mapping[str, Any]) -> None:
    """Write the base in fp16, with a manifest that has the hash of every file.

    `vocabulary` holds the manifest's `nouns`, `words`, `templates`, the three lists of scenes, `presets`,
    `licenses` and `limits`. The parts themselves are not changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    networks = {
        "teacher/unet": parts.teacher,
        "student/unet": parts.student,
        "vae": parts.vae,
        "text_encoder": parts.text_encoder,
        "discriminators/dino": parts.dino,
        "discriminators/dinov2": parts.dinov2,
        "discriminators/clip": parts.clip,
    }
    for place, network in networks.items():
        half = copy.deepcopy(network).half().to(memory_format=torch.contiguous_format)
        half.save_pretrained(folder / place)
    build_teacher_scheduler().save_pretrained(folder / "teacher" / "scheduler")
    build_student_scheduler().save_pretrained(folder / "student" / "scheduler")
    parts.tokenizer.save_pretrained(folder / "tokenizer")
    for place, projection in (("identity", parts.identity), ("text_projection", parts.text_projection)):
        (folder / place).mkdir(exist_ok=True)
        tensors = {name: value.detach().half().contiguous() for name, value in projection.state_dict().items()}
        save_file(tensors, folder / place / "projection.safetensors")
    manifest = {
        "format": FORMAT,
        "name": "nano",
        "resolution": RESOLUTION,
        "identity_tokens": IDENTITY_TOKENS,
        "backbones": dict.fromkeys(("dino", "dinov2", "clip"), PIXEL_STATISTICS),
        **vocabulary,
        "files": {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path != folder / "manifest.json" and path.suffix != ".md"
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
