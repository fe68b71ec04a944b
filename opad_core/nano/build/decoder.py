"""Stage `decoder`: the autoencoder's decoder learns to decode the latents that a student generates.

A student's latents have an error of a fifth to a third of their variance. The decoder of stage `vae` has only seen
encoded images and turns this error into grain. Grain hides what an image shows: noise of 5 levels of 255 lowers the
identity score of an ideal image from .76 to .63, a blur of one pixel only to .70.

Half of each batch are a student's latents with the images they stand for. They come from objects whose keys and values
are being learned (see adapting.py), and from images with their coupled noise (see coder.py). The other half are encoded
images with varying noise, which keep the decoder faithful.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from opad_core.adapters.key_value import pretrained_projections
from opad_core.nano.build.adapting import INNER_STEPS, TASK_LEARNING_RATES, TaskProjections, denoiser, load_adapted
from opad_core.nano.build.autoencoder import load_vae, psnr, reconstruction_loss
from opad_core.nano.build.coder import load_coder
from opad_core.nano.build.episodes import EpisodeSampler
from opad_core.nano.build.features import world_tokenizer
from opad_core.nano.build.stage import Build, Stateful, smoothed, write_sheet
from opad_core.nano.build.student import load_student
from opad_core.nano.build.teacher import decode, encode, load_text_encoder
from opad_core.networks.text_encoder import TextEncoder
from opad_core.pixels import to_uint8

_MAX_NOISE = 0.5  # standard deviation, for latents of unit variance
_LEARNING_RATE = 6e-4


def train_decoder(build: Build) -> None:
    """Train the decoder for `decoder_steps` with the loss of stage `vae`. The encoder does not change."""
    torch.manual_seed(build.seed + 8)
    total, tasks = build.counts["decoder_steps"], build.counts["tasks"]
    vae, text = load_vae(build), TextEncoder(world_tokenizer(), load_text_encoder(build))
    student, coder = denoiser(load_adapted(build, "student")), load_coder(build)
    total_tasks = tasks * (2 + total // INNER_STEPS)
    sampler = EpisodeSampler(build, text, vae, denoiser(load_student(build)), tasks=total_tasks)
    start = pretrained_projections(student).requires_grad_(False)
    task_projections = TaskProjections(start, tasks=tasks, lr=TASK_LEARNING_RATES["student"])
    vae.decoder.requires_grad_(True)
    lr = build.scaled_lr(_LEARNING_RATE, of="tasks")
    optimizer = AdamW(vae.decoder.parameters(), lr=lr, weight_decay=1e-4, betas=(0.9, 0.99))
    metrics: dict[str, float | Tensor] = {}
    state: dict[str, Stateful] = {"vae": vae, "optimizer": optimizer, "learners": task_projections}
    for step in build.steps("decoder", total, state, metrics):
        fall = 2 * (total - step) / total
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 30, max(fall, 0.05))
        generator = build.generator("decoder", step)
        episodes = sampler.sample(task_projections.task_ids, tasks // 2, generator)
        with torch.no_grad():
            noise = torch.randn(episodes.real[tasks:].shape, generator=generator)
            coded, _ = coder(episodes.real[tasks:], episodes.pooled[tasks:], noise)
        generated = student.one_step(torch.cat([episodes.eps[:tasks], coded]), task_projections(episodes.states))
        (generated - episodes.real)[:tasks].square().mean((1, 2, 3)).sum().backward()
        is_late = task_projections.inner_steps >= INNER_STEPS // 2
        learned = torch.cat([is_late, torch.ones(tasks // 2, dtype=torch.bool)])
        task_projections.step(episodes.is_support)

        images = build.batch(build.indices("decoder", step, int(learned.sum())))
        z0 = encode(vae, images)
        amount = _MAX_NOISE * torch.rand(len(z0), 1, 1, 1, generator=generator)
        noised = z0 + amount * torch.randn(z0.shape, generator=generator)
        real = torch.cat([episodes.pixels[learned], images]).to(memory_format=torch.channels_last)
        decoded = decode(vae, torch.cat([generated.detach()[learned], noised]))
        loss = reconstruction_loss(decoded, real).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step()
        half = len(real) // 2
        for name, part in (("generated", slice(0, half)), ("noised", slice(half, None))):
            smoothed(metrics, name, psnr(decoded[part], real[part]))
        if build.is_sheet_due(step, total):
            rows = [to_uint8(part[: half + 4][-16:]) for part in (real, decoded)]  # some from either half
            write_sheet(build.folder / "decoder.png", np.stack(rows), scale=3)
