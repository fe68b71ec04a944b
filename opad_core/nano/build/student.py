"""Stages `coding` and `student`: one step instead of many.

The student comes first. Stage `coding`: from nothing it learns to turn noise into real pictures as the decoder of a
conditional variational autoencoder. A small network codes what the caption leaves open about a picture
(which drawing, which ground) into 80 numbers that replace the noise's channel means, so that equal noise always asks
for the same picture. Stage `student`: a critic judges what it makes of plain noise, with the teacher's denoised opinion
(Sauer et al. 2023) and the coded pictures as anchors. Regression on pictures that the teacher draws from the noise
would be the usual first part (Yin et al. 2023); it costs sixteen evaluations a picture and can be no better than the
teacher.
"""

import numpy as np
import torch
from diffusers import AutoencoderDC, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from transformers.modeling_outputs import BaseModelOutputWithPooling

from opad_core.nano.build.architecture import LATENT_CHANNELS, LATENT_SIZE, build_unet
from opad_core.nano.build.autoencoder import load_vae
from opad_core.nano.build.coder import Coder, load_coder
from opad_core.nano.build.critic import Critic
from opad_core.nano.build.features import tokenize, world_tokenizer
from opad_core.nano.build.stage import Average, Build, seeded, smoothed, to_pixels, write_sheet
from opad_core.nano.build.teacher import (
    SHEET_PROMPTS,
    averaged_unet,
    cumulative_alphas,
    decode,
    encode,
    load_teacher,
    load_text_encoder,
)

_CODE_PRICES = (4e-4, 3e-3)  # per nat, against a squared error per latent number: at first, and in the end
"""Cheap codes show the student much at once, the prompt's scene included, which noise will not know to say."""
_ADVERSARIAL = 0.05
_DISTILLATION = 0.2
_SLOPE = 0.05


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
        loss = _coding_loss(student, coder, z0, encoded, float(price), build.generator("coding", step), shown)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        average.update(student)
        if build.shows(step, total):
            _write_sheet(build, "coding", vae, average)


def train_student(build: Build) -> None:
    """`student_steps` more, now judged on plain noise as well."""
    torch.manual_seed(build.seed + 7)
    pictures = build.on_grid()
    vae, text_encoder, teacher = load_vae(build), load_text_encoder(build), load_teacher(build)
    captions = tokenize(world_tokenizer(), pictures.captions)
    student, coder = (part.requires_grad_(True).train() for part in coded_student(build))
    critic, average = Critic(), Average(student, 0.995)
    rate = build.rate(1.5e-4)
    optimizer = AdamW([*student.parameters(), *coder.parameters()], lr=rate, weight_decay=0.0, betas=(0.5, 0.99))
    critic_optimizer = Adam(critic.parameters(), lr=build.rate(4e-4), betas=(0.0, 0.99))
    shown: dict[str, float | Tensor] = {}
    state = {
        "student": student,
        "coder": coder,
        "average": average,
        "critic": critic,
        "optimizer": optimizer,
        "critic_optimizer": critic_optimizer,
    }
    total = build.counts["student_steps"]
    for step in build.steps("student", total, state, shown):
        generator = build.generator("student", step)
        optimizer.param_groups[0]["lr"] = rate * min(1.0, max(2 * (total - step) / total, 0.2))
        indices = pictures.indices("student", step, build.counts["batch"])
        with torch.no_grad():
            encoded = text_encoder(captions[torch.from_numpy(indices)])
        text, summary = encoded.last_hidden_state, encoded.pooler_output
        z0 = encode(vae, pictures.batch(indices))
        loss = _coding_loss(student, coder, z0, encoded, _CODE_PRICES[1], generator, shown)
        z0_student = one_step(student, torch.randn(z0.shape, generator=generator), text)
        critic_loss = critic.loss(z0, z0_student, summary, penalty=_SLOPE)
        critic_optimizer.zero_grad(set_to_none=True)
        critic_loss.backward()
        critic_optimizer.step()
        fooled = -critic(z0_student, summary).mean()
        distillation = teacher_distance(teacher, z0_student, text, generator)
        loss = loss + min(1.0, step / 100) * _ADVERSARIAL * fooled + _DISTILLATION * distillation
        shown.update(critic=critic_loss.detach(), fool=fooled.detach(), teacher=distillation.detach())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        average.update(student)
        if build.shows(step, total):
            _write_sheet(build, "student", vae, average)


def _coding_loss(
    student: UNet2DConditionModel, coder: Coder, z0: Tensor, encoded: BaseModelOutputWithPooling,
    price: float, generator: torch.Generator, shown: dict[str, float | Tensor],
) -> Tensor:  # fmt: skip
    coded, divergence = coder(z0, encoded.pooler_output, torch.randn(z0.shape, generator=generator))
    error = (one_step(student, coded, encoded.last_hidden_state) - z0).square().mean()
    smoothed(shown, "error", error)
    shown["nats"] = divergence.detach().mean()
    loss: Tensor = error + price * divergence.mean()
    return loss


def one_step(student: UNet2DConditionModel, eps: Tensor, text: Tensor) -> Tensor:
    """Scaled latents from unit noise in one evaluation at t = 999, where the noised picture holds no signal."""
    alpha_bar = cumulative_alphas()[-1]
    z = (1 - alpha_bar).sqrt() * eps
    v: Tensor = student(z, 999, text).sample
    return alpha_bar.sqrt() * z - (1 - alpha_bar).sqrt() * v


def coded_student(build: Build) -> tuple[UNet2DConditionModel, Coder]:
    """The averaged student of stage `coding` and its coder, frozen."""
    average = Average(build_unet(), 0.0)
    build.load("coding", "average", average)
    return averaged_unet(average), load_coder(build)


def load_student(build: Build) -> UNet2DConditionModel:
    """The averaged student, frozen; the coded one where the recipe gives the critic no steps."""
    average = Average(build_unet(), 0.0)
    build.load("student" if build.counts["student_steps"] else "coding", "average", average)
    return averaged_unet(average)


def teacher_distance(
    teacher: UNet2DConditionModel, z0_student: Tensor, text: Tensor, generator: torch.Generator
) -> Tensor:
    """ADD's distillation term: noise the student's latents, denoise with the teacher, compare; a scalar."""
    alpha_bar = cumulative_alphas()
    t = torch.randint(200, 900, (len(z0_student),), generator=generator)
    weight = alpha_bar[t][:, None, None, None]
    signal, noise = weight.sqrt(), (1 - weight).sqrt()
    with torch.no_grad():
        z_t = signal * z0_student + noise * torch.randn(z0_student.shape, generator=generator)
        z0_teacher = signal * z_t - noise * teacher(z_t, t, text).sample
    return ((z0_student - z0_teacher).square() * weight).mean()


@torch.no_grad()
def _write_sheet(build: Build, stage: str, vae: AutoencoderDC, average: Average) -> None:
    student, text_encoder = averaged_unet(average), load_text_encoder(build)
    text = text_encoder(tokenize(world_tokenizer(), list(SHEET_PROMPTS))).last_hidden_state
    rows = []
    for seed in range(4):
        size = (len(SHEET_PROMPTS), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        eps = torch.randn(size, generator=seeded(seed))
        rows.append(to_pixels(decode(vae, one_step(student, eps, text))))
    write_sheet(build.folder / f"{stage}.png", np.stack(rows))
