"""Stage `teacher`: the many-step diffusion model on the autoencoder's latents, and how it draws."""

import json

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import CLIPTextModel

from opad_core.nano.build.architecture import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    build_teacher_scheduler,
    build_text_encoder,
    build_unet,
)
from opad_core.nano.build.autoencoder import load_vae
from opad_core.nano.build.features import tokenize, world_tokenizer
from opad_core.nano.build.stage import Average, Build, Stateful, to_pixels, write_sheet

_BATCH = 32
_LEARNING_RATE = 8e-4
_CAPTION_DROP = 0.1
_MIN_SNR = 5.0  # gamma of Hang et al. 2023
SHEET_PROMPTS = (
    "a photo of a backpack",
    "a dog on the beach",
    "a cat in the snow",
    "a red car with a city in the background",
    "a robot in the jungle",
    "a duck floating on top of water",
    "a teapot on top of a wooden floor",
    "a crown in front of a brick wall",
    "a blue mug on top of pink fabric",
    "a penguin with a mountain in the background",
    "a teddy bear on top of green grass",
    "a mushroom at night",
)


def train_teacher(build: Build) -> None:
    """v-prediction with min-SNR weights.

    The text encoder goes along at a third of the rate from its CLIP start for `text_steps`, then rests at its average,
    so that the student can train beside the teacher from there.
    """
    torch.manual_seed(build.seed + 4)
    vae = load_vae(build)
    tokenizer = world_tokenizer(build)
    unet, text_encoder = build_unet().to(memory_format=torch.channels_last), build_text_encoder(tokenizer)
    build.load("clip", "text_encoder", text_encoder)
    trained = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    average = Average(trained, 0.998)
    groups = [
        {"params": unet.parameters(), "lr": _LEARNING_RATE},
        {"params": text_encoder.parameters(), "lr": _LEARNING_RATE / 3},
    ]
    optimizer = AdamW(groups, weight_decay=0.01, betas=(0.9, 0.99))
    captions = tokenize(tokenizer, json.loads((build.folder / "captions.json").read_text()))
    nothing = tokenize(tokenizer, [""])
    total = build.counts["teacher_steps"]
    alpha_bar = cumulative_alphas()
    shown: dict[str, float] = {}
    state: dict[str, Stateful] = {"trained": trained, "average": average, "optimizer": optimizer}
    for step in build.steps("teacher", total, state, shown):
        for group, base in zip(optimizer.param_groups, (_LEARNING_RATE, _LEARNING_RATE / 3), strict=True):
            group["lr"] = base * _rate(step, total)
        indices = build.indices("teacher", step, _BATCH)
        generator = build.generator("teacher", step)
        z0 = encode(vae, build.batch(indices))
        eps = torch.randn(z0.shape, generator=generator)
        t = torch.randint(0, len(alpha_bar), (_BATCH,), generator=generator)
        dropped = torch.rand(_BATCH, generator=generator) < _CAPTION_DROP
        ids = torch.where(dropped[:, None], nothing, captions[indices])
        signal, noise = alpha_bar[t].sqrt()[:, None, None, None], (1 - alpha_bar[t]).sqrt()[:, None, None, None]
        if step == build.counts["text_steps"]:
            average.copy_to(frozen := _fresh(build))
            text_encoder.load_state_dict(frozen["text_encoder"].state_dict())
        with torch.set_grad_enabled(step < build.counts["text_steps"]):
            text = text_encoder(ids).last_hidden_state
        v_hat = unet(signal * z0 + noise * eps, t, text).sample
        error = (v_hat - (signal * eps - noise * z0)).square().mean((1, 2, 3))
        snr = alpha_bar[t] / (1 - alpha_bar[t])
        loss = (error * snr.clamp(max=_MIN_SNR) / (snr + 1)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        average.update(trained)
        shown["loss"] = 0.98 * shown.get("loss", loss.item()) + 0.02 * loss.item()
        if (step + 1) % 250 == 0 or step + 1 == total:
            _write_sheet(build, vae, average)


def load_teacher(build: Build) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The averaged teacher and its text encoder, frozen."""
    average = Average(_fresh(build), 0.0)
    build.load("teacher", "average", average)
    return _averaged(build, average)


def _fresh(build: Build) -> nn.ModuleDict:
    return nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder(world_tokenizer(build))})


def _averaged(build: Build, average: Average) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    trained = _fresh(build)
    average.copy_to(trained)
    trained.requires_grad_(False).eval()
    unet, text_encoder = trained["unet"], trained["text_encoder"]
    assert isinstance(unet, UNet2DConditionModel)
    assert isinstance(text_encoder, CLIPTextModel)
    return unet.to(memory_format=torch.channels_last), text_encoder


def cumulative_alphas() -> Tensor:
    """alpha_bar_t for t = 0 ... 999."""
    alphas: Tensor = build_teacher_scheduler().alphas_cumprod
    return alphas


def encode(vae: AutoencoderTiny, pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] to scaled latents [b, 24, 8, 8]."""
    with torch.no_grad():
        latents: Tensor = vae.encode(pictures).latents * vae.config.scaling_factor
    return latents


def decode(vae: AutoencoderTiny, latents: Tensor) -> Tensor:
    """Scaled latents to pictures, [b, 3, 64, 64] around [-1, 1]."""
    pictures: Tensor = vae.decode(latents / vae.config.scaling_factor).sample
    return pictures


@torch.no_grad()
def sample_teacher(
    unet: UNet2DConditionModel, condition: Tensor, nothing: Tensor, eps: Tensor, *, steps: int, guidance: float
) -> Tensor:
    """DDIM from pure noise with classifier-free guidance.

    `condition` [b, 24, 128], `nothing` [1, 24, 128], `eps` [b, 24, 8, 8] unit normal. Returns scaled latents.
    """
    alpha_bar = cumulative_alphas()
    times = np.linspace(len(alpha_bar) - 1, 0, steps + 1).round().astype(int)[:-1].tolist()
    z = (1 - alpha_bar[times[0]]).sqrt() * eps
    both = torch.cat([condition, nothing.expand_as(condition)])
    for t, t_next in zip(times, [*times[1:], -1], strict=True):
        v_with, v_without = unet(torch.cat([z, z]), t, both).sample.chunk(2)
        v = v_without + guidance * (v_with - v_without)
        signal, noise = alpha_bar[t].sqrt(), (1 - alpha_bar[t]).sqrt()
        x0, eps_hat = signal * z - noise * v, noise * z + signal * v
        next_bar = alpha_bar[t_next] if t_next >= 0 else torch.ones(())
        z = next_bar.sqrt() * x0 + (1 - next_bar).sqrt() * eps_hat
    return z


def _rate(step: int, total: int) -> float:
    """Warm up over 100 steps, stay, fall to a twentieth over the last third."""
    fall = (total - step) / (total / 3)
    return min((step + 1) / 100, 1.0, max(fall, 0.05))


def _write_sheet(build: Build, vae: AutoencoderTiny, average: Average) -> None:
    """With the decoder as it stands, since it may still be training beside."""
    unet, text_encoder = _averaged(build, average)
    ids = tokenize(world_tokenizer(build), [*SHEET_PROMPTS, ""])
    with torch.no_grad():
        text = text_encoder(ids).last_hidden_state
    rows = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        eps = torch.randn(len(SHEET_PROMPTS), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)
        z0 = sample_teacher(unet, text[:-1], text[-1:], eps, steps=12, guidance=3.0)
        rows.append(to_pixels(decode(vae, z0)))
    write_sheet(build.folder / "teacher.png", np.stack(rows))
