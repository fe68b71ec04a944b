"""The three discriminators, each a frozen feature network with a small trainable head (paper, section 3.3)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from opad_core.bases.loading import Base
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.opad.losses import discriminator_loss, generator_loss
from opad_core.networks.feature_networks import Backbone
from opad_core.random_streams import stream

HEAD_WIDTH = 512
NAMES = ("dino", "dinov2", "clip")
"""Names of D1, D2 and D3, in the order of `Base.backbones` and `lambda_adv`."""


@dataclass(frozen=True)
class Discriminator:
    name: str
    network: Callable[[Tensor], Tensor]
    """Frozen; maps pixels [b, 3, h, w] in [-1, 1] to features [b, ...]. Gradients flow to the pixels."""
    head: nn.Sequential
    """Trained; maps flat features to two logits (fake, real)."""
    weight: float
    """Weight of the adversarial loss in the student's loss."""
    real_label: float = 1.0
    """The share of "real" in what the head should say of a real image."""

    def generator_loss(self, fakes: "DiscriminatorInputs") -> Tensor:
        """Return the student's L_adv of generated images, [b]."""
        return generator_loss(self.head(fakes.feature(self).flatten(1)))

    def loss(self, reals: "DiscriminatorInputs", fakes: "DiscriminatorInputs") -> Tensor:
        """Return the loss [b] of the head."""
        with torch.no_grad():
            features = [images.feature(self).flatten(1) for images in (reals, fakes)]
        return discriminator_loss(*map(self.head, features), real_label=self.real_label)


@dataclass(frozen=True)
class DiscriminatorInputs:
    """Images for the discriminators: pixels [b, 3, h, w] in [-1, 1], and features by discriminator, computed lazily."""

    pixels: Tensor | None
    features: dict[str, Tensor] = field(default_factory=dict)

    def feature(self, discriminator: Discriminator) -> Tensor:
        """Return the frozen network's features, which are computed once."""
        if discriminator.name not in self.features:
            assert self.pixels is not None
            self.features[discriminator.name] = discriminator.network(self.pixels)
        return self.features[discriminator.name]

    def detached(self, *, features: bool) -> "DiscriminatorInputs":
        """Return a copy without gradients; `features` keeps the computed features."""
        kept = {name: feature.detach() for name, feature in self.features.items()} if features else {}
        return DiscriminatorInputs(None if self.pixels is None else self.pixels.detach(), kept)


def discriminators_of(
    base: Base, config: OpadConfig, *, seed: int, backbones: tuple[Backbone, Backbone, Backbone]
) -> list[Discriminator]:
    """Build the discriminators that have a weight, with heads initialized from the seed.

    `backbones` are those of the base, or compiled copies of them.
    """
    resolution = base.manifest.resolution
    probe = torch.zeros(1, 3, resolution, resolution, device=base.device)
    discriminators = []
    for k, (name, weight) in enumerate(zip(NAMES, config.lambda_adv, strict=True)):
        if weight:
            options = {
                "resize_mode": config.discriminator_resize,
                "normalize": config.normalize_backbones,
                "size": config.dinov2_size if name == "dinov2" else 0,
            }
            with torch.no_grad():
                width = base.backbones[k](probe, **options).flatten(1).shape[1]
            head = discriminator_head(width, generator=stream(seed, 0, f"head-{k}")).to(base.device)
            discriminators.append(
                Discriminator(name, partial(backbones[k], **options), head, weight, config.real_label)
            )
    return discriminators


def discriminator_head(features: int, *, generator: torch.Generator) -> nn.Sequential:
    """Return Linear -> ReLU -> Linear to two logits (fake, real), with PyTorch's default initialization."""
    head = nn.Sequential(nn.Linear(features, HEAD_WIDTH), nn.ReLU(), nn.Linear(HEAD_WIDTH, 2))
    for layer in (head[0], head[2]):
        assert isinstance(layer, nn.Linear)
        bound = layer.in_features**-0.5
        for parameter in (layer.weight, layer.bias):
            parameter.data = torch.empty_like(parameter, device="cpu").uniform_(-bound, bound, generator=generator)
    return head
