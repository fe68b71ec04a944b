"""Stage `coding`: a student that draws in one step.

The student comes first: from nothing it learns to turn noise into real pictures as the decoder of a conditional
variational autoencoder. A small network codes what the caption leaves open about a picture (which drawing, which
ground) into 80 numbers that replace the noise's channel means, so that equal noise always asks for the same picture.
Regression on pictures that the teacher draws from the noise would be the usual first part (Yin et al. 2023); it costs
sixteen evaluations a picture and can be no better than the teacher. The teacher's opinion and a critic's come when the
student adapts, see adapting.py.
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

_CODE_PRICES = (4e-4, 3e-3)  # per nat, against a squared error per latent number: at first, and in the end
"""Cheap codes show the student much at once, the prompt's scene included, which noise will not know to say."""


def train_coding(build: Build) -> None:
    """`coding_steps` on coded real pictures."""
    torch.manual_seed(build.seed + 5)
    pictures = build.on_grid()
    vae, text_encoder = load_vae(build), load_text_encoder(build)
    captions = tokenize(world_tokenizer(), pictures.captions)
    student = build_unet().to(memory_format=torch.channels_last)
    coder, average = Coder(), Average(student, 0.998)
    rate = build.rate(8e-4)
    weights = [*student.parameters(), *coder.parameters()]
    optimizer = AdamW(weights, lr=rate, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
    shown: dict[str, float | Tensor] = {}
    state = {"student": student, "coder": coder, "average": average, "optimizer": optimizer}
    total = build.counts["coding_steps"]
    for step in build.steps("coding", total, state, shown):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50, max(3 * (total - step) / total, 0.1))
        indices = pictures.indices("coding", step, build.counts["batch"])
        with torch.no_grad():
            encoded = text_encoder(captions[torch.from_numpy(indices)])
        z0 = encode(vae, pictures.batch(indices))
        price = np.interp(step / total, (0.8, 0.85), _CODE_PRICES)
        noise = torch.randn(z0.shape, generator=build.generator("coding", step))
        coded, divergence = coder(z0, encoded.pooler_output, noise)
        error = (one_step(student, coded, encoded.last_hidden_state) - z0).square().mean()
        loss = error + float(price) * divergence.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        average.update(student)
        smoothed(shown, "error", error)
        shown["nats"] = divergence.detach().mean()
        if build.shows(step, total):
            _write_sheet(build, vae, average)


def one_step(student: UNet2DConditionModel, eps: Tensor, text: Tensor) -> Tensor:
    """Scaled latents from unit noise in one evaluation at t = 999, where the noised picture holds no signal."""
    alpha_bar = cumulative_alphas()[-1]
    z = (1 - alpha_bar).sqrt() * eps
    v: Tensor = student(z, 999, text).sample
    return alpha_bar.sqrt() * z - (1 - alpha_bar).sqrt() * v


def load_student(build: Build) -> UNet2DConditionModel:
    """The averaged student of stage `coding`, frozen."""
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
