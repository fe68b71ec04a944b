"""Stage `decoder`: the autoencoder's decoder learns what to make of latents that a student drew.

A student's latents are off by a third of their variance. The decoder of stage `vae`, which has seen encoded pictures
only, turns that into grain, and grain hides what a picture shows: noise of 5 levels of 255 on an ideal picture takes
its identity score from .76 to .63, a blur of one pixel to .70. Coded pictures give pairs of a student's latents and
the picture they stand for; the other half of each batch are encoded pictures with more or less noise, which keep the
decoder faithful and make it ready for the latents of students that learn something else.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from opad_core.nano.build.autoencoder import load_vae, psnr, reconstruction_loss
from opad_core.nano.build.features import tokenize, world_tokenizer
from opad_core.nano.build.stage import Build, Stateful, smoothed, to_pixels, write_sheet
from opad_core.nano.build.student import coded_student, one_step
from opad_core.nano.build.teacher import decode, encode, load_text_encoder

_MOST_NOISE = 0.5  # deviation, of latents of unit variance
_LEARNING_RATE = 6e-4


def train_decoder(build: Build) -> None:
    """`decoder_steps` with the loss of stage `vae`; the encoder, and so what latents mean, stays."""
    torch.manual_seed(build.seed + 8)
    pictures = build.on_grid()
    vae, text_encoder = load_vae(build), load_text_encoder(build)
    vae.decoder.requires_grad_(True)
    student, coder = coded_student(build)
    captions = tokenize(world_tokenizer(), pictures.captions)
    optimizer = AdamW(vae.decoder.parameters(), lr=build.rate(_LEARNING_RATE), weight_decay=1e-4, betas=(0.9, 0.99))
    shown: dict[str, float | Tensor] = {}
    state: dict[str, Stateful] = {"vae": vae, "optimizer": optimizer}
    total, half = build.counts["decoder_steps"], build.counts["batch"] // 2
    for step in build.steps("decoder", total, state, shown):
        fall = 2 * (total - step) / total
        optimizer.param_groups[0]["lr"] = build.rate(_LEARNING_RATE) * min(1.0, (step + 1) / 30, max(fall, 0.05))
        generator = build.generator("decoder", step)
        on_grid = pictures.indices("decoder", step, half)
        free = build.indices("decoder", step, half)
        real = torch.cat([pictures.batch(on_grid), build.batch(free)]).to(memory_format=torch.channels_last)
        z0 = encode(vae, real)
        with torch.no_grad():
            encoded = text_encoder(captions[torch.from_numpy(on_grid)])
            coded, _ = coder(z0[:half], encoded.pooler_output, torch.randn(z0[:half].shape, generator=generator))
            drawn = one_step(student, coded, encoded.last_hidden_state)
            amount = _MOST_NOISE * torch.rand(half, 1, 1, 1, generator=generator)
            noised = z0[half:] + amount * torch.randn(z0[half:].shape, generator=generator)
        decoded = decode(vae, torch.cat([drawn, noised]))
        loss = reconstruction_loss(decoded, real).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step()
        for name, part in (("drawn", slice(0, half)), ("noised", slice(half, None))):
            smoothed(shown, name, psnr(decoded[part], real[part]))
        if build.shows(step, total):
            rows = [to_pixels(part[: half + 8][-16:]) for part in (real, decoded)]  # some of both halves
            write_sheet(build.folder / "decoder.png", np.stack(rows), scale=3)
