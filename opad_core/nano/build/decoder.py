"""Stage `decoder`: the autoencoder's decoder learns what to make of latents that a student drew.

A student's latents are off by a fifth to a third of their variance. The decoder of stage `vae`, which has seen encoded
pictures only, turns that into grain, and grain hides what a picture shows: noise of 5 levels of 255 on an ideal picture
takes its identity score from .76 to .63, a blur of one pixel to .70. Two things give pairs of a student's latents and
the picture they stand for: new things that keys and values of their own have learned, see adapting.py, and coded
pictures. The other half of each batch are encoded pictures with more or less noise, which keep the decoder faithful.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from opad_core.adapters.key_value import pretrained_projections
from opad_core.nano.build.adapting import INNER, OWN_RATES, Learners, denoiser, load_adapted
from opad_core.nano.build.autoencoder import load_vae, psnr, reconstruction_loss
from opad_core.nano.build.coder import load_coder
from opad_core.nano.build.episodes import Lessons
from opad_core.nano.build.features import world_tokenizer
from opad_core.nano.build.stage import Build, Stateful, smoothed, write_sheet
from opad_core.nano.build.student import load_student
from opad_core.nano.build.teacher import decode, encode, load_text_encoder
from opad_core.networks.text_encoder import TextEncoder
from opad_core.pixels import to_uint8

_MOST_NOISE = 0.5  # deviation, of latents of unit variance
_LEARNING_RATE = 6e-4


def train_decoder(build: Build) -> None:
    """`decoder_steps` with the loss of stage `vae`; the encoder, and so what latents mean, stays."""
    torch.manual_seed(build.seed + 8)
    total, things = build.counts["decoder_steps"], build.counts["things"]
    vae, text = load_vae(build), TextEncoder(world_tokenizer(), load_text_encoder(build))
    student, coder = denoiser(load_adapted(build, "student")), load_coder(build)
    in_all = things * (2 + total // INNER)
    lessons = Lessons(build, text, vae, denoiser(load_student(build)), things=in_all)
    learners = Learners(pretrained_projections(student).requires_grad_(False), things=things, rate=OWN_RATES["student"])
    vae.decoder.requires_grad_(True)
    rate = build.rate(_LEARNING_RATE, of="things")
    optimizer = AdamW(vae.decoder.parameters(), lr=rate, weight_decay=1e-4, betas=(0.9, 0.99))
    shown: dict[str, float | Tensor] = {}
    state: dict[str, Stateful] = {"vae": vae, "optimizer": optimizer, "learners": learners}
    for step in build.steps("decoder", total, state, shown):
        fall = 2 * (total - step) / total
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 30, max(fall, 0.05))
        generator = build.generator("decoder", step)
        lesson = lessons.draw(learners.numbers, things // 2, generator)
        with torch.no_grad():
            noise = torch.randn(lesson.real[things:].shape, generator=generator)
            coded, _ = coder(lesson.real[things:], lesson.summaries[things:], noise)
        drawn = student.one_step(torch.cat([lesson.eps[:things], coded]), learners(lesson.states))
        (drawn - lesson.real)[:things].square().mean((1, 2, 3)).sum().backward()
        learned = torch.cat([learners.ages >= INNER // 2, torch.ones(things // 2, dtype=torch.bool)])
        learners.step(lesson.at_home)

        free = build.batch(build.indices("decoder", step, int(learned.sum())))
        z0 = encode(vae, free)
        amount = _MOST_NOISE * torch.rand(len(z0), 1, 1, 1, generator=generator)
        noised = z0 + amount * torch.randn(z0.shape, generator=generator)
        real = torch.cat([lesson.pixels[learned], free]).to(memory_format=torch.channels_last)
        decoded = decode(vae, torch.cat([drawn.detach()[learned], noised]))
        loss = reconstruction_loss(decoded, real).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step()
        half = len(real) // 2
        for name, part in (("drawn", slice(0, half)), ("noised", slice(half, None))):
            smoothed(shown, name, psnr(decoded[part], real[part]))
        if build.shows(step, total):
            rows = [to_uint8(part[: half + 4][-16:]) for part in (real, decoded)]  # some of both halves
            write_sheet(build.folder / "decoder.png", np.stack(rows), scale=3)
