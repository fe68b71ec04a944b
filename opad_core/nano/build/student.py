"""Stage `coding`: a student that generates images in one step.

The student comes before the teacher. From random weights it learns to turn noise into real images, as the decoder of a
conditional variational autoencoder. A small network, the coder, encodes what the caption leaves open about an image
(which drawing, which background) into 80 numbers. They replace the channel means of the noise, so that the same noise
always asks for the same image.

The usual way is regression on images that the teacher generates from the noise (Yin et al. 2023). That costs sixteen
evaluations per image and cannot become better than the teacher. Teacher and critic come in when the student adapts, see
adapting.py.
"""

import numpy as np
import torch
from diffusers import AutoencoderDC, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim import AdamW

from opad_core.nano.build.architecture import LATENT_CHANNELS, LATENT_SIZE, build_unet
from opad_core.nano.build.autoencoder import load_vae
from opad_core.nano.build.coder import Coder
from opad_core.nano.build.features import tokenize, world_tokenizer
from opad_core.nano.build.stage import Average, Build, seeded, smoothed, write_sheet
from opad_core.nano.build.teacher import (
    SHEET_PROMPTS,
    averaged_unet,
    cumulative_alphas,
    decode,
    encode,
    load_text_encoder,
)
from opad_core.pixels import to_uint8

_KL_WEIGHTS = (4e-4, 3e-3)  # at first and at the end; per nat, relative to the squared error per latent number
"""With a low weight, codes carry much information and the student learns quickly. But such codes also tell the scene of
the prompt, which plain noise cannot. So the weight rises at the end."""


def train_coding(build: Build) -> None:
    """Train student and coder for `coding_steps` on real images."""
    torch.manual_seed(build.seed + 5)
    images = build.on_grid()
    vae, text_encoder = load_vae(build), load_text_encoder(build)
    captions = tokenize(world_tokenizer(), images.captions)
    student = build_unet().to(memory_format=torch.channels_last)
    coder, average = Coder(), Average(student, 0.998)
    lr = build.scaled_lr(8e-4)
    weights = [*student.parameters(), *coder.parameters()]
    optimizer = AdamW(weights, lr=lr, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
    metrics: dict[str, float | Tensor] = {}
    state = {"student": student, "coder": coder, "average": average, "optimizer": optimizer}
    total = build.counts["coding_steps"]
    for step in build.steps("coding", total, state, metrics):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 50, max(3 * (total - step) / total, 0.1))
        indices = images.indices("coding", step, build.counts["batch"])
        with torch.no_grad():
            encoded = text_encoder(captions[torch.from_numpy(indices)])
        z0 = encode(vae, images.batch(indices))
        kl_weight = np.interp(step / total, (0.8, 0.85), _KL_WEIGHTS)
        noise = torch.randn(z0.shape, generator=build.generator("coding", step))
        coded, kl = coder(z0, encoded.pooler_output, noise)
        error = (one_step(student, coded, encoded.last_hidden_state) - z0).square().mean()
        loss = error + float(kl_weight) * kl.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        average.update(student)
        smoothed(metrics, "error", error)
        metrics["kl"] = kl.detach().mean()
        if build.is_sheet_due(step, total):
            _write_sheet(build, vae, average)


def one_step(student: UNet2DConditionModel, eps: Tensor, text: Tensor) -> Tensor:
    """Return scaled latents from unit noise, by one evaluation at t = 999, where a noised image has no signal."""
    alpha_bar = cumulative_alphas()[-1]
    z = (1 - alpha_bar).sqrt() * eps
    v: Tensor = student(z, 999, text).sample
    return alpha_bar.sqrt() * z - (1 - alpha_bar).sqrt() * v


def load_student(build: Build) -> UNet2DConditionModel:
    """Load the averaged student of stage `coding`, frozen."""
    average = Average(build_unet(), 0.0)
    build.load("coding", "average", average)
    return averaged_unet(average)


@torch.no_grad()
def _write_sheet(build: Build, vae: AutoencoderDC, average: Average) -> None:
    student, text_encoder = averaged_unet(average), load_text_encoder(build)
    text = text_encoder(tokenize(world_tokenizer(), list(SHEET_PROMPTS))).last_hidden_state
    rows = []
    for seed in range(4):
        size = (len(SHEET_PROMPTS), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        eps = torch.randn(size, generator=seeded(seed))
        rows.append(to_uint8(decode(vae, one_step(student, eps, text))))
    write_sheet(build.folder / "coding.png", np.stack(rows))
