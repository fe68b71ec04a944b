"""The critic of the build: a small convolutional network that scores latents and captions.

Latents of 8x8 patches hold nearly all of an image, so the critic needs no decoder between itself and the student (Sauer
et al. 2024 discriminate latents for the same reason). It starts from random weights and has only latents as input.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opad_core.nano.build.architecture import LATENT_CHANNELS, TEXT_WIDTH

_WIDTH = 160


class Critic(nn.Module):
    """Scores patches and their neighborhoods, [b, 8 * 8 + 4 * 4]. Real latents that fit the caption score high."""

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

    def forward(self, z: Tensor, pooled: Tensor) -> Tensor:
        """Score `z` [b, 80, 8, 8], given the caption's `pooled` embedding [b, 128].

        The condition enters by projection (Miyato and Koyama 2018).
        """
        patches = self.patches(z)
        scores = []
        for plain, worded, states in zip(self.plain, self.worded, (patches, self.areas(patches)), strict=True):
            rows = F.leaky_relu(states.flatten(2).transpose(1, 2), 0.2)
            scores.append(plain(rows)[..., 0] + (rows @ worded(pooled)[..., None])[..., 0] / _WIDTH**0.5)
        return torch.cat(scores, 1)

    def loss(self, real: Tensor, fake: Tensor, pooled: Tensor, *, penalty: float) -> Tensor:
        """Return the hinge loss plus R1, the squared gradient of the scores of real latents; a scalar."""
        real = real.detach().requires_grad_(True)
        real_scores = self(real, pooled)
        (slope,) = torch.autograd.grad(real_scores.mean(1).sum(), real, create_graph=True)
        hinge = F.relu(1 - real_scores).mean() + F.relu(1 + self(fake.detach(), pooled)).mean()
        return hinge + penalty * slope.square().sum((1, 2, 3)).mean()
