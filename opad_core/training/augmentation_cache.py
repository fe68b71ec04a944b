"""Batches of augmented images, new ones in every step or from a cache.

Augmentation has few really different outcomes. A cache of `config.augmentation_cache` images represents them. It holds
what the frozen networks compute from each image, so these results are computed once instead of in every iteration. It
is on the CPU, where choosing from it does not wait for a GPU.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from opad_core.bases.loading import Base
from opad_core.random_streams import stream
from opad_core.training.augmentation import Batch, Example, augmented, indices_at
from opad_core.training.config import AugmentationConfig

Features = Callable[[Tensor, torch.Generator], dict[str, Tensor]]
"""Maps pixels [b, 3, r, r] in [-1, 1] and a generator to features [b, ...] by name, which the cache keeps."""


class AugmentedBatches:
    """Batches by (seed, step, name). A cache is filled on first use and does not depend on the step."""

    def __init__(self, base: Base, config: AugmentationConfig, *, seed: int, features: Features) -> None:
        self._base, self._config, self._seed, self._features = base, config, seed, features
        self._caches: dict[str, Batch] = {}

    def batch(self, examples: list[Example], name: str, step: int, *, canvas: bool = True) -> Batch:
        """Return `batch_size` augmented images. Without `canvas`, an image that would be shrunk is whole."""
        size, count = self._config.batch_size, self._config.augmentation_cache
        if not count:
            chosen = [examples[i] for i in indices_at(len(examples), step, batch_size=size, seed=self._seed)]
            return self._augmented(chosen, stream(self._seed, step, name), canvas=canvas)
        if name not in self._caches:
            self._caches[name] = self._filled(examples, name, canvas=canvas)
        return self._caches[name].rows(indices_at(count, step, batch_size=size, seed=self._seed))

    def forget(self, *names: str) -> None:
        """Drop caches whose examples have changed."""
        for name in names:
            self._caches.pop(name, None)

    def _augmented(self, examples: list[Example], generator: torch.Generator, *, canvas: bool) -> Batch:
        return augmented(
            examples,
            self._config,
            latent=self._base.latent_shape[-1],
            resolution=self._base.manifest.resolution,
            generator=generator,
            canvas=canvas,
        )

    @torch.no_grad()
    def _filled(self, examples: list[Example], name: str, *, canvas: bool) -> Batch:
        """Augment every example equally often and compute latents and features in small batches."""
        indices = indices_at(len(examples), 0, batch_size=self._config.augmentation_cache, seed=self._seed)
        views = self._augmented([examples[i] for i in indices], stream(self._seed, 0, f"bank-{name}"), canvas=canvas)
        assert views.pixels is not None
        posterior, place = (stream(self._seed, 0, f"bank-{name}-{purpose}") for purpose in ("vae", "window"))
        parts = [part.to(self._base.device) for part in views.pixels.split(self._config.batch_size)]
        features = [self._features(part, place) for part in parts]
        return dataclasses.replace(
            views,
            pixels=None,
            latents=torch.cat(
                [self._base.encode(part, self._base.posterior_noise(len(part), posterior)).cpu() for part in parts]
            ),
            features={kind: torch.cat([part[kind].cpu() for part in features]) for kind in features[0]},
        )


def no_features(pixels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Return no features, for a method that needs only the latents."""
    return {}
