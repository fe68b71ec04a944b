"""Stage `teacher`: the many-step diffusion model on the autoencoder's latents, and its sampler."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderDC, UNet2DConditionModel
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
from opad_core.nano.build.coder import load_coder
from opad_core.nano.build.features import tokenize, world_tokenizer
from opad_core.nano.build.stage import Average, Build, Stateful, seeded, smoothed, write_sheet
from opad_core.pixels import to_uint8

_LEARNING_RATE = 6e-4
_CAPTION_DROP = 0.1
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
    """Train the teacher for `teacher_steps`, from the student's weights and with the same coupling of noise and images.

    The student already generates images. One-step regression learns the shape of a drawing from every image. Denoising
    learns it only at noise levels that leave the shape open. Alone, it learned no shapes from as many images.

    The teacher predicts v, with equal weight at all timesteps. CLIP's text encoder is frozen, as in Stable Diffusion.
    """
    torch.manual_seed(build.seed + 4)
    images = build.on_grid()
    vae, text_encoder = load_vae(build), load_text_encoder(build)
    tokenizer = world_tokenizer()
    unet = build_unet().to(memory_format=torch.channels_last)
    build.load("coding", "student", unet)
    coder = load_coder(build)
    average = Average(unet, 0.998)
    optimizer = AdamW(unet.parameters(), lr=_LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    captions = tokenize(tokenizer, images.captions)
    empty = tokenize(tokenizer, [""])
    total, batch, lr = build.counts["teacher_steps"], build.counts["batch"], build.scaled_lr(_LEARNING_RATE)
    alpha_bar = cumulative_alphas()
    metrics: dict[str, float | Tensor] = {}
    state: dict[str, Stateful] = {"unet": unet, "average": average, "optimizer": optimizer}
    for step in build.steps("teacher", total, state, metrics):
        optimizer.param_groups[0]["lr"] = lr * _lr_scale(step, total)
        indices = images.indices("teacher", step, batch)
        generator = build.generator("teacher", step)
        z0 = encode(vae, images.batch(indices))
        t = torch.randint(0, len(alpha_bar), (batch,), generator=generator)
        dropped = torch.rand(batch, generator=generator) < _CAPTION_DROP
        ids = torch.where(dropped[:, None], empty, captions[torch.from_numpy(indices)])
        signal, noise = alpha_bar[t].sqrt()[:, None, None, None], (1 - alpha_bar[t]).sqrt()[:, None, None, None]
        with torch.no_grad():
            encoded = text_encoder(ids)
            eps, _ = coder(z0, encoded.pooler_output, torch.randn(z0.shape, generator=generator))
        v_hat = unet(signal * z0 + noise * eps, t, encoded.last_hidden_state).sample
        loss = (v_hat - (signal * eps - noise * z0)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        average.update(unet)
        smoothed(metrics, "loss", loss)
        if build.is_sheet_due(step, total):
            _write_sheet(build, vae, average)


def load_teacher(build: Build) -> UNet2DConditionModel:
    """Load the averaged teacher, frozen."""
    average = Average(build_unet(), 0.0)
    build.load("teacher", "average", average)
    return averaged_unet(average)


def load_text_encoder(build: Build) -> CLIPTextModel:
    """Load CLIP's text encoder, frozen."""
    text_encoder = build_text_encoder(world_tokenizer())
    build.load("clip", "text_encoder", text_encoder)
    return text_encoder.requires_grad_(False).eval()


def averaged_unet(average: Average) -> UNet2DConditionModel:
    """Return a frozen UNet with the averaged weights."""
    unet = build_unet()
    average.copy_to(unet)
    return unet.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def cumulative_alphas() -> Tensor:
    """Return alpha_bar_t for t = 0 ... 999."""
    alphas: Tensor = build_teacher_scheduler().alphas_cumprod
    return alphas


def encode(vae: AutoencoderDC, images: Tensor) -> Tensor:
    """Encode images in [-1, 1] to scaled latents [b, 80, 8, 8]."""
    with torch.no_grad():
        latents: Tensor = vae.encode(images).latent * vae.config.scaling_factor
    return latents


def decode(vae: AutoencoderDC, latents: Tensor) -> Tensor:
    """Decode scaled latents to images [b, 3, 64, 64], roughly in [-1, 1]."""
    images: Tensor = vae.decode(latents / vae.config.scaling_factor).sample
    return images


@torch.no_grad()
def sample_teacher(predict_v: Callable[[Tensor, int], Tensor], eps: Tensor, *, steps: int, guidance: float) -> Tensor:
    """Sample scaled latents by DDIM with classifier-free guidance, from unit noise `eps` [b, 80, 8, 8].

    `predict_v` predicts v for latents [2b, 80, 8, 8], the first half with captions and the second half without.
    """
    alpha_bar = cumulative_alphas()
    times = np.linspace(len(alpha_bar) - 1, 0, steps + 1).round().astype(int)[:-1].tolist()
    z = (1 - alpha_bar[times[0]]).sqrt() * eps
    for t, t_next in zip(times, [*times[1:], -1], strict=True):
        v_with, v_without = predict_v(torch.cat([z, z]), t).chunk(2)
        v = v_without + guidance * (v_with - v_without)
        signal, noise = alpha_bar[t].sqrt(), (1 - alpha_bar[t]).sqrt()
        x0, eps_hat = signal * z - noise * v, noise * z + signal * v
        next_bar = alpha_bar[t_next] if t_next >= 0 else torch.ones(())
        z = next_bar.sqrt() * x0 + (1 - next_bar).sqrt() * eps_hat
    return z


def _lr_scale(step: int, total: int) -> float:
    """Return the learning rate's factor: a warm-up over 100 steps, and a fall to a twentieth over the last third."""
    fall = (total - step) / (total / 3)
    return min((step + 1) / 100, 1.0, max(fall, 0.05))


def _write_sheet(build: Build, vae: AutoencoderDC, average: Average) -> None:
    unet, text_encoder = averaged_unet(average), load_text_encoder(build)
    ids = tokenize(world_tokenizer(), [*SHEET_PROMPTS, ""])
    with torch.no_grad():
        text = text_encoder(ids).last_hidden_state
    both = torch.cat([text[:-1], text[-1:].expand_as(text[:-1])])
    rows = []
    for seed in range(2):
        generator = seeded(seed)
        eps = torch.randn(len(SHEET_PROMPTS), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)
        z0 = sample_teacher(lambda z, t: unet(z, t, both).sample, eps, steps=12, guidance=3.0)
        rows.append(to_uint8(decode(vae, z0)))
    write_sheet(build.folder / "teacher.png", np.stack(rows))
