"""Stage `student`: one step instead of many.

The student starts as the teacher. First it learns to turn noise into real pictures as the decoder of a conditional
variational autoencoder: a small network codes what the caption leaves open about a picture (which drawing, where, how
large) into 24 numbers that replace the noise's channel means, so that equal noise always asks for the same picture.
Then the feature networks judge its pictures from plain noise, with the teacher's denoised opinion and the coded
pictures as anchors (Sauer et al. 2023). Regression on pictures that the teacher draws from the noise would be the
usual first part (Yin et al. 2023); it costs sixteen evaluations a picture and can be no better than the teacher.
"""

import copy
import json

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from opad_core.nano.build.architecture import LATENT_CHANNELS, LATENT_SIZE, build_unet
from opad_core.nano.build.autoencoder import load_vae
from opad_core.nano.build.critic import Critic
from opad_core.nano.build.features import tokenize, world_tokenizer
from opad_core.nano.build.stage import Average, Build, to_pixels, write_sheet
from opad_core.nano.build.teacher import SHEET_PROMPTS, cumulative_alphas, decode, encode, load_teacher

_CODING_BATCH = 32
_BATCH = 16
_CODE_PRICE = 3e-4  # per nat, against a squared error per latent number


class Coder(nn.Module):
    """Latents [b, 24, 8, 8] of a real picture to the noise that stands for it, and the code's divergence [b]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(LATENT_CHANNELS * LATENT_SIZE**2, 256), nn.ReLU(), nn.Linear(256, 2 * LATENT_CHANNELS)
        )

    def forward(self, z0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """`eps` is unit noise; what it says beside its channel means stays as it is."""
        mean, log_variance = self.layers(z0.flatten(1)).chunk(2, 1)
        log_variance = log_variance.clamp(-8, 4)
        drawn = eps.mean((2, 3)) * LATENT_SIZE  # unit normal again: the mean of 64 numbers has deviation 1/8
        code = mean + (log_variance / 2).exp() * drawn
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return eps + ((code - drawn) / LATENT_SIZE)[:, :, None, None], divergence


def train_student(build: Build) -> None:
    """`coding_steps` on coded real pictures, then `student_steps` with the discriminators as well."""
    torch.manual_seed(build.seed + 5)
    vae = load_vae(build)
    teacher, text_encoder = load_teacher(build)
    captions = tokenize(world_tokenizer(build), json.loads((build.folder / "captions.json").read_text()))
    student = copy.deepcopy(teacher).requires_grad_(True).train()
    coder, critic, average = Coder(), Critic(build), Average(student, 0.995)
    optimizer = AdamW([*student.parameters(), *coder.parameters()], lr=8e-4, weight_decay=0.0, betas=(0.9, 0.99))
    critic_optimizer = Adam(critic.heads.parameters(), lr=5e-4, betas=(0.0, 0.99))
    shown: dict[str, float] = {}
    state = {
        "student": student,
        "coder": coder,
        "average": average,
        "heads": critic.heads,
        "optimizer": optimizer,
        "critic_optimizer": critic_optimizer,
    }
    coding_steps = build.counts["coding_steps"]
    total = coding_steps + build.counts["student_steps"]
    for step in build.steps("student", total, state, shown):
        generator = build.generator("student", step)
        judged = step >= coding_steps
        optimizer.param_groups[0]["lr"] = _rate(step, coding_steps, total)
        indices = build.indices("student", step, _BATCH if judged else _CODING_BATCH)
        pictures = build.batch(indices)
        with torch.no_grad():
            encoded = text_encoder(captions[torch.from_numpy(indices)])
        text, summary = encoded.last_hidden_state, encoded.pooler_output
        z0 = encode(vae, pictures)
        coded, divergence = coder(z0, torch.randn(z0.shape, generator=generator))
        error = (one_step(student, coded, text) - z0).square().mean()
        loss = error + _CODE_PRICE * divergence.mean()
        shown["error"] = 0.98 * shown.get("error", error.item()) + 0.02 * error.item()
        shown["nats"] = divergence.mean().item()
        if judged:
            z0_student = one_step(student, torch.randn(z0.shape, generator=generator), text)
            fake_features = critic.features(decode(vae, z0_student))
            with torch.no_grad():
                real_features = critic.features(pictures)
            critic_loss = critic.judge(real_features, summary, is_real=True) + critic.judge(
                [part.detach() for part in fake_features], summary, is_real=False
            )
            critic_optimizer.zero_grad(set_to_none=True)
            critic_loss.backward()
            critic_optimizer.step()
            adversarial = critic.fool(fake_features, summary)
            distillation = teacher_distance(teacher, z0_student, text, generator)
            loss = loss + 0.2 * adversarial + 0.2 * distillation
            shown.update(critic=critic_loss.item(), fool=adversarial.item(), teacher=distillation.item())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        average.update(student)
        if (step + 1) % 100 == 0 or step + 1 == total:
            _write_sheet(build, vae, average)


def one_step(student: UNet2DConditionModel, eps: Tensor, text: Tensor) -> Tensor:
    """Scaled latents from unit noise in one evaluation at t = 999, where the noised picture holds no signal."""
    alpha_bar = cumulative_alphas()[-1]
    z = (1 - alpha_bar).sqrt() * eps
    v: Tensor = student(z, 999, text).sample
    return alpha_bar.sqrt() * z - (1 - alpha_bar).sqrt() * v


def load_student(build: Build) -> UNet2DConditionModel:
    """The averaged student, frozen."""
    average = Average(build_unet(), 0.0)
    build.load("student", "average", average)
    return _averaged(average)


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


def _rate(step: int, coding_steps: int, total: int) -> float:
    """Code at 8e-4 falling to a tenth over the last third, play the game at 2e-4 falling over its last half."""
    if step < coding_steps:
        return 8e-4 * min(1.0, (step + 1) / 50, max(3 * (coding_steps - step) / coding_steps, 0.1))
    left = (total - step) / max(1, total - coding_steps)
    return 2e-4 * min(1.0, max(2 * left, 0.2))


def _averaged(average: Average) -> UNet2DConditionModel:
    student = build_unet()
    average.copy_to(student)
    return student.requires_grad_(False).eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def _write_sheet(build: Build, vae: AutoencoderTiny, average: Average) -> None:
    student = _averaged(average)
    _, text_encoder = load_teacher(build)
    text = text_encoder(tokenize(world_tokenizer(build), list(SHEET_PROMPTS))).last_hidden_state
    rows = []
    for seed in range(4):
        size = (len(SHEET_PROMPTS), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        eps = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        rows.append(to_pixels(decode(vae, one_step(student, eps, text))))
    write_sheet(build.folder / "student.png", np.stack(rows))
