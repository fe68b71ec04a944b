"""Stage `vae`: a linear encoder in closed form and a trained convolutional decoder.

The encoder projects 8x8 patches on their 80 principal components. These keep 34.2 dB of the world's images and need no
training, so the student can start while the decoder still trains.
"""

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from opad_core.nano.build.architecture import LATENT_CHANNELS, RESOLUTION, build_vae
from opad_core.nano.build.stage import Build, smoothed, write_sheet
from opad_core.pixels import to_uint8

_LATENT_NOISE = 0.05
_FACTOR = 8
_WHITENING = 0.5  # 0 keeps the components' variances, 1 makes them equal
_FIT_IMAGES = 4000


def build_fitted_vae(build: Build) -> AutoencoderDC:
    """Return the autoencoder with its fitted encoder and a random decoder. The result depends on images and seed."""
    torch.manual_seed(build.seed)
    vae = build_vae()
    fit_encoder(vae, build.batch(np.arange(min(_FIT_IMAGES, len(build.images)))))
    return vae


@torch.no_grad()
def fit_encoder(vae: AutoencoderDC, images: Tensor) -> None:
    """Write the principal components of 8x8 patches into the encoder's convolutions.

    Three pixel unshuffles gather a patch into 192 channels (3 -> 12 -> 48 -> 192); the blocks between them do nothing.
    The output convolution projects on the components and centers them.
    """
    for parameter in vae.encoder.parameters():
        parameter.zero_()
    first, last = vae.encoder.conv_in.conv, vae.encoder.conv_out
    for channel in range(3):
        first.weight[channel, channel, 1, 1] = 1
    n = RESOLUTION // _FACTOR
    patches = images
    for _ in range(3):
        patches = F.pixel_unshuffle(patches, 2)
    rows = patches.permute(0, 2, 3, 1).reshape(len(images) * n * n, -1).double()
    mean = rows.mean(0)
    variances, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    variances, vectors = variances[-LATENT_CHANNELS:].flip(0), vectors[:, -LATENT_CHANNELS:].flip(1)
    scaled = vectors * variances.clamp(min=1e-8).pow(-_WHITENING / 2)
    scaled /= ((rows - mean) @ scaled).std()
    last.weight[:, :, 1, 1] = scaled.T.float()
    last.bias.copy_(-(mean @ scaled))


def train_vae(build: Build) -> None:
    """Train the decoder with L1 at three scales and L1 of gradients. The latents get noise."""
    vae = build_fitted_vae(build).to(memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    total = build.counts["vae_steps"]
    optimizer = AdamW(vae.decoder.parameters(), lr=build.scaled_lr(1.5e-3), weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = OneCycleLR(optimizer, build.scaled_lr(1.5e-3), total_steps=total + 1, pct_start=0.05)
    metrics: dict[str, float | Tensor] = {}
    state = {"vae": vae, "optimizer": optimizer, "schedule": schedule}
    for step in build.steps("vae", total, state, metrics):
        images = build.batch(build.indices("vae", step, build.counts["batch"])).to(memory_format=torch.channels_last)
        latents = vae.encode(images).latent
        noise = torch.randn(latents.shape, generator=build.generator("vae", step))
        decoded = vae.decode(latents + _LATENT_NOISE * noise).sample
        loss = reconstruction_loss(decoded, images).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        smoothed(metrics, "psnr", psnr(decoded, images))
        if build.is_sheet_due(step, total):
            _write_pairs(build, vae)


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Return L1 at three scales plus L1 of gradients, [b]. Both inputs are [b, 3, h, w] in [-1, 1]."""
    losses = [(decoded - images).abs().mean((1, 2, 3))]
    for factor in (2, 4):
        coarse = F.avg_pool2d(decoded, factor) - F.avg_pool2d(images, factor)
        losses.append(0.5 * coarse.abs().mean((1, 2, 3)))
    for axis in (2, 3):
        losses.append((decoded.diff(dim=axis) - images.diff(dim=axis)).abs().mean((1, 2, 3)))
    return torch.stack(losses).sum(0)


def psnr(decoded: Tensor, images: Tensor) -> Tensor:
    """Return the mean PSNR in dB, a scalar. Both inputs are in [-1, 1]."""
    error = (decoded.detach().clamp(-1, 1) - images).square().mean((1, 2, 3)) / 4
    return (-10 * error.log10()).mean()


def load_vae(build: Build) -> AutoencoderDC:
    """Load the autoencoder, frozen, with the decoder of the latest stage that has run: `decoder`, `vae` or none."""
    trained = [stage for stage in ("decoder", "vae") if (build.folder / f"{stage}.pt").exists()]
    if trained:
        vae = build_vae()
        build.load(trained[0], "vae", vae)
    else:
        vae = build_fitted_vae(build)
    return vae.requires_grad_(False).eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def _write_pairs(build: Build, vae: AutoencoderDC) -> None:
    images = build.batch(np.arange(16))
    decoded = vae(images).sample
    write_sheet(build.folder / "vae.png", np.stack([to_uint8(images), to_uint8(decoded)]), scale=3)
