"""Stage `vae`: a linear encoder in closed form and a trained convolutional decoder.

The 24 principal components of 8x8 patches keep 26.9 dB of the world's pictures (an encoder trained as long as the
decoder reached 23 dB), cost nothing to find, and let the teacher start while the decoder still trains.
"""

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from opad_core.nano.build.architecture import LATENT_CHANNELS, RAW_LATENT_SCALE, RESOLUTION, build_vae
from opad_core.nano.build.stage import Build, to_pixels, write_sheet

_BATCH = 8
_LATENT_NOISE = 0.06
_FACTOR = 8
_WHITENING = 0.5  # 0 keeps the components' variances, 1 makes them equal
_FITTED_ON = 2000


def build_fitted_vae(build: Build) -> AutoencoderTiny:
    """The autoencoder with its encoder in place and a fresh decoder: the same for the same pictures."""
    torch.manual_seed(build.seed)
    vae = build_vae()
    fit_encoder(vae, build.batch(np.arange(min(_FITTED_ON, len(build.pictures)))))
    for name, module in vae.decoder.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if name.endswith("conv.4"):  # the last of a residual block
                module.weight.data *= 0.3
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return vae


@torch.no_grad()
def fit_encoder(vae: AutoencoderTiny, pictures: Tensor) -> None:
    """Write the principal components of 8x8 patches into the encoder's convolutions.

    The encoder has no blocks and hence no activation: three strided convolutions gather 2x2 neighbours into channels
    (3 -> 12 -> 48), the last of them also projects on the components, and the output convolution centres them.
    """
    n = RESOLUTION // _FACTOR
    pixels = (pictures + 1) / 2
    patches = pixels.unfold(2, _FACTOR, _FACTOR).unfold(3, _FACTOR, _FACTOR)  # b, 3, n, n, 8, 8
    rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(len(pictures) * n * n, -1).double()
    mean = rows.mean(0)
    variances, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    variances, vectors = variances[-LATENT_CHANNELS:].flip(0), vectors[:, -LATENT_CHANNELS:].flip(1)
    scaled = vectors * variances.clamp(min=1e-8).pow(-_WHITENING / 2)
    scaled /= ((rows - mean) @ scaled).std() * RAW_LATENT_SCALE
    first, *strided, last = (module for module in vae.encoder.modules() if isinstance(module, nn.Conv2d))
    for convolution in (first, *strided, last):
        convolution.weight.zero_()
    assert first.bias is not None
    assert last.bias is not None
    nn.init.zeros_(first.bias)
    for channel in range(3):
        first.weight[channel, channel, 1, 1] = 1
    channels = 3
    for convolution in strided[:-1]:
        for channel in range(channels):
            for dy in (0, 1):
                for dx in (0, 1):
                    convolution.weight[(channel * 2 + dy) * 2 + dx, channel, 1 + dy, 1 + dx] = 1
        channels *= 4
    # Channel (((c * 2 + y1) * 2 + x1) * 2 + y2) * 2 + x2 now holds pixel (y1 + 2 y2, x1 + 2 x2) of a 4x4 patch.
    basis = scaled.T.reshape(LATENT_CHANNELS, 3, _FACTOR, _FACTOR).float()
    for dy in (0, 1):
        for dx in (0, 1):
            quarter = basis[:, :, 4 * dy : 4 * dy + 4, 4 * dx : 4 * dx + 4].reshape(-1, 3, 2, 2, 2, 2)
            ordered = quarter.permute(0, 1, 3, 5, 2, 4).reshape(LATENT_CHANNELS, 48)
            strided[-1].weight[:LATENT_CHANNELS, :, 1 + dy, 1 + dx] = ordered
    for channel in range(LATENT_CHANNELS):
        last.weight[channel, channel, 1, 1] = 1
    last.bias.copy_(-(mean @ scaled))


def train_vae(build: Build) -> None:
    """Train the decoder: L1 at three scales + gradient L1, with noise on the latents."""
    vae = build_fitted_vae(build).to(memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    total = build.counts["vae_steps"]
    optimizer = AdamW(vae.decoder.parameters(), lr=1.5e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = OneCycleLR(optimizer, 1.5e-3, total_steps=total + 1, pct_start=0.05)
    shown: dict[str, float] = {}
    state = {"vae": vae, "optimizer": optimizer, "schedule": schedule}
    for step in build.steps("vae", total, state, shown):
        pictures = build.batch(build.indices("vae", step, _BATCH)).to(memory_format=torch.channels_last)
        latents = vae.encode(pictures).latents
        noise = torch.randn(latents.shape, generator=build.generator("vae", step))
        decoded = vae.decode(latents + _LATENT_NOISE / RAW_LATENT_SCALE * noise).sample
        loss = reconstruction_loss(decoded, pictures).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        shown["psnr"] = 0.98 * shown.get("psnr", 0.0) + 0.02 * psnr(decoded, pictures)
        if step % 250 == 0:
            _write_pairs(build, vae)
    _write_pairs(build, vae)


def reconstruction_loss(decoded: Tensor, pictures: Tensor) -> Tensor:
    """Per picture [b]; both [b, 3, h, w] in [-1, 1]."""
    losses = [(decoded - pictures).abs().mean((1, 2, 3))]
    for factor in (2, 4):
        coarse = F.avg_pool2d(decoded, factor) - F.avg_pool2d(pictures, factor)
        losses.append(0.5 * coarse.abs().mean((1, 2, 3)))
    for axis in (2, 3):
        losses.append((decoded.diff(dim=axis) - pictures.diff(dim=axis)).abs().mean((1, 2, 3)))
    return torch.stack(losses).sum(0)


def psnr(decoded: Tensor, pictures: Tensor) -> float:
    """Mean over pictures, in dB; both in [-1, 1]."""
    error = (decoded.detach().clamp(-1, 1) - pictures).square().mean((1, 2, 3)) / 4
    return float((-10 * error.log10()).mean())


def load_vae(build: Build) -> AutoencoderTiny:
    """The autoencoder as far as its decoder is trained, frozen."""
    vae = build_fitted_vae(build)
    if (build.folder / "vae.pt").exists():
        build.load("vae", "vae", vae)
    return vae.requires_grad_(False).eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def _write_pairs(build: Build, vae: AutoencoderTiny) -> None:
    pictures = build.batch(np.arange(16))
    decoded = vae(pictures).sample
    write_sheet(build.folder / "vae.png", np.stack([to_pixels(pictures), to_pixels(decoded)]), scale=3)
