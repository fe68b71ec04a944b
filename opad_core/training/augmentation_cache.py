"""Where a training's batches come from: fresh views of its pictures, or a bank of views that were drawn once.

Augmentation has few really different outcomes. `config.augmentation_cache` views stand for all of them, with what the
frozen networks make of each: the VAE's latents and the discriminators' features are computed once instead of in every
iteration.
"""

import dataclasses
from dataclasses import dataclass, field
from types import EllipsisType

import torch
from torch import Tensor

from opad_core.bases.loading import Base
from opad_core.config import OpadConfig
from opad_core.networks.feature_networks import Backbone
from opad_core.random_streams import stream
from opad_core.training.augmentation import Batch, Example, augmented, indices_at

JUDGES = ("dino", "dinov2", "clip")
"""The feature networks of D1, D2 and D3, in the order of `Base.backbones`, of the heads and of `lambda_adv`."""


def feature_of(config: OpadConfig, judge: str, backbone: Backbone, x: Tensor) -> Tensor:
    """What a discriminator's head sees of pixels [b, 3, r, r] in [-1, 1], before flattening."""
    feature: Tensor = backbone(
        x,
        resize_mode=config.discriminator_resize,
        normalize=config.normalize_backbones,
        size=config.dinov2_size if judge == "dinov2" else 0,
    )
    return feature


def window(size: int, share: float, generator: torch.Generator) -> tuple[EllipsisType, slice, slice]:
    """A square with that share of a side of `size`, anywhere on it, as an index; a share of 1 is the whole."""
    side = max(1, round(share * size))
    top, left = torch.randint(size - side + 1, (2,), generator=generator).tolist()
    return ..., slice(top, top + side), slice(left, left + side)


@dataclass(frozen=True)
class Judged:
    """Pictures before the discriminators: pixels [b, 3, h, w] in [-1, 1] and, by judge, features made of them."""

    pixels: Tensor | None
    features: dict[str, Tensor] = field(default_factory=dict)

    def feature(self, config: OpadConfig, judge: str, backbone: Backbone) -> Tensor:
        """Computed when first asked for and then kept."""
        if judge not in self.features:
            assert self.pixels is not None
            self.features[judge] = feature_of(config, judge, backbone, self.pixels)
        return self.features[judge]

    def detached(self, *, features: bool) -> "Judged":
        """Without gradients, and without the features where they are to be made anew."""
        kept = {judge: feature.detach() for judge, feature in self.features.items()} if features else {}
        return Judged(None if self.pixels is None else self.pixels.detach(), kept)


class Views:
    """Batches by (seed, step, name of the stream); a bank is drawn when first asked for and depends on no step."""

    def __init__(self, base: Base, config: OpadConfig, *, seed: int) -> None:
        self._base, self._config, self._seed = base, config, seed
        self._banks: dict[str, Batch] = {}

    def batch(self, examples: list[Example], name: str, step: int, *, canvas: bool = True) -> Batch:
        """`batch_size` views; without `canvas` a photo that would be shrunk onto one is shown whole."""
        size = self._config.batch_size
        if not self._config.augmentation_cache:
            chosen = [examples[i] for i in indices_at(len(examples), step, batch_size=size, seed=self._seed)]
            return self._drawn(chosen, stream(self._seed, step, name), canvas=canvas)
        if name not in self._banks:
            self._banks[name] = self._bank(examples, name, canvas=canvas)
        return self._banks[name].rows(
            indices_at(self._config.augmentation_cache, step, batch_size=size, seed=self._seed)
        )

    def _drawn(self, examples: list[Example], generator: torch.Generator, *, canvas: bool) -> Batch:
        return augmented(
            examples,
            self._config,
            latent=self._base.latent_shape[-1],
            resolution=self._base.manifest.resolution,
            generator=generator,
            canvas=canvas,
        )

    @torch.no_grad()
    def _bank(self, examples: list[Example], name: str, *, canvas: bool) -> Batch:
        """`bank` views, every example as often as any other, looked at in parts of a batch."""
        indices = indices_at(len(examples), 0, batch_size=self._config.augmentation_cache, seed=self._seed)
        views = self._drawn([examples[i] for i in indices], stream(self._seed, 0, f"bank-{name}"), canvas=canvas)
        assert views.pixels is not None
        posterior = stream(self._seed, 0, f"bank-{name}-vae")
        parts = [part.to(self._base.device) for part in views.pixels.split(self._config.batch_size)]
        judges = [
            (judge, backbone)
            for judge, backbone, weight in zip(JUDGES, self._base.backbones, self._config.lambda_adv, strict=True)
            if weight
        ]
        place = stream(self._seed, 0, f"bank-{name}-window")
        seen = [part[window(part.shape[-1], self._config.decode_crop, place)] for part in parts]
        return dataclasses.replace(
            views,
            pixels=None,
            latents=torch.cat([self._base.encode(part, posterior) for part in parts]),
            features={
                judge: torch.cat([feature_of(self._config, judge, backbone, part) for part in seen])
                for judge, backbone in judges
            },
        )
