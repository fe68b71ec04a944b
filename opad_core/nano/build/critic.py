"""What judges pictures during the build: a small convolutional network that reads latents and captions.

Latents of 8x8 patches hold nearly all of a picture, so a judge of latents needs no decoder between itself and the
student (Sauer et al. 2024 judge latents for the same reason). It starts from nothing and sees real latents only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opad_core.nano.build.architecture import LATENT_CHANNELS, TEXT_WIDTH

_WIDTH = 160


class Critic(nn.Module):
    """Scores [b, 8 * 8 + 4 * 4] of patches and their neighbourhoods, high for real latents that fit the caption."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, _WIDTH, 1), nn.LeakyReLU(0.2), nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        )
        self.areas = nn.Sequential(
            nn.LeakyReLU(0.2),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, stride=2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
        )
        self.plain = nn.ModuleList(nn.Linear(_WIDTH, 1) for _ in range(2))
        self.worded = nn.ModuleList(nn.Linear(TEXT_WIDTH, _WIDTH) for _ in range(2))

    def forward(self, z: Tensor, summary: Tensor) -> Tensor:
        """`z` [b, 80, 8, 8], `summary` [b, 128] the caption's embedding (projection of Miyato and Koyama 2018)."""
        patches = self.patches(z)
        scores = []
        for plain, worded, states in zip(self.plain, self.worded, (patches, self.areas(patches)), strict=True):
            rows = F.leaky_relu(states.flatten(2).transpose(1, 2), 0.2)
            scores.append(plain(rows)[..., 0] + (rows @ worded(summary)[..., None])[..., 0] / _WIDTH**0.5)
        return torch.cat(scores, 1)

    def loss(self, real: Tensor, fake: Tensor, summary: Tensor, *, penalty: float) -> Tensor:
        """Hinge loss and, on real latents, the squared gradient of the score (R1); a scalar."""
        real = real.detach().requires_grad_(True)
        real_scores = self(real, summary)
        (slope,) = torch.autograd.grad(real_scores.mean(1).sum(), real, create_graph=True)
        hinge = F.relu(1 - real_scores).mean() + F.relu(1 + self(fake.detach(), summary)).mean()
        return hinge + penalty * slope.square().sum((1, 2, 3)).mean()
