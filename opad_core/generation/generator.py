"""Generate images in one step, with one UNet for all concepts that takes keys and values as inputs."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from cachetools import LRUCache

from opad_core.adapters.adapter import Adapter
from opad_core.bases.loading import Base
from opad_core.errors import OpadError, OtherBaseError
from opad_core.generation.bundle import Bundle
from opad_core.networks.denoiser import KeysValues
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.pixels import to_uint8

MAX_SEED = 2**63 - 1
DecoderName = Literal["full", "fast"]


@dataclass(frozen=True)
class ImageRequest:
    """One image. Without a bundle the untouched student generates it, and the prompt must not name a concept."""

    bundle: Bundle | None
    prompt: str
    seed: int
    decoder: DecoderName = "full"
    """`fast` is the base's fast decoder."""


class OneStepGenerator:
    """Generates images from a loaded base. Not thread-safe: only one thread may use it.

    Keys and values are cached per (concept, prompt): 3.84 MB in half precision for SD-Turbo. `cached_prompts` bounds
    the memory. A cached request costs one UNet pass and one decode.
    """

    def __init__(self, base: Base, *, cached_prompts: int = 256) -> None:
        self.base = base
        self._shapes: dict[type[Adapter], dict[str, torch.Size]] = {}
        self._keys_values: LRUCache[tuple[str | None, str], KeysValues] = LRUCache(cached_prompts)

    def has_cached(self, request: ImageRequest) -> bool:
        return _cache_key(request) in self._keys_values

    def forget(self, bundle_id: str) -> None:
        """Drop the cached keys and values of a concept."""
        for cache_key in [key for key in self._keys_values if key[0] == bundle_id]:
            del self._keys_values[cache_key]

    @torch.no_grad()
    def prepare(self, request: ImageRequest) -> None:
        """Compute and cache the keys and values of a request. Raises OpadError as `generate` does."""
        if request.decoder == "fast" and self.base.no_fast_decoder is not None:
            raise OpadError(self.base.no_fast_decoder)
        self._keys_and_values(request)

    @torch.no_grad()  # not inference_mode: a network that loads inside could not be used for training later
    def generate(self, requests: list[ImageRequest]) -> np.ndarray:
        """Return images [b, r, r, 3] uint8 in the order of the requests, which may mix concepts and prompts.

        Raises OpadError for a bundle of another base, for a prompt that names no concept or more than one, and for the
        fast decoder on a base without one.
        """
        if not requests:
            raise OpadError("needs at least one image request")
        per_request = [self._keys_and_values(request) for request in requests]
        layers = self.base.student.layers
        keys_values = {
            layer: (torch.cat([kv[layer][0] for kv in per_request]), torch.cat([kv[layer][1] for kv in per_request]))
            for layer in layers
        }
        eps = torch.stack([noise_of(request.seed, self.base.latent_shape) for request in requests])
        z_student = self.base.student.one_step(eps.to(self.base.device), keys_values)
        return self._decoded(z_student, [request.decoder for request in requests])

    def _decoded(self, z_student: torch.Tensor, decoders: list[DecoderName]) -> np.ndarray:
        """Decode each image with its decoder: one pass for each of the two that is asked for."""
        side = self.base.manifest.resolution
        images = np.empty((len(decoders), side, side, 3), dtype=np.uint8)
        for name, decode in (("full", self.base.decode), ("fast", self.base.decode_fast)):
            if chosen := [i for i, decoder in enumerate(decoders) if decoder == name]:
                images[chosen] = to_uint8(decode(z_student[chosen]))
        return images

    def _keys_and_values(self, request: ImageRequest) -> KeysValues:
        """Return the keys and values of one request, each [1, tokens, inner], from the cache or computed."""
        cache_key = _cache_key(request)
        if cache_key in self._keys_values:
            return self._keys_values[cache_key]
        bundle = request.bundle
        if bundle is None:
            text_states = self.base.text.encode([request.prompt], [""], [None])
            keys_values = self.base.student.keys_values(text_states)
        else:
            if bundle.base_sha256 != self.base.manifest.sha256:
                raise OtherBaseError(
                    f"the concept was learned on another base ({bundle.base} {bundle.base_sha256[:12]}) than the one "
                    f"loaded ({self.base.manifest.name} {self.base.manifest.sha256[:12]}); "
                    "train it again, or load that base"
                )
            self._check_shapes(bundle)
            if PLACEHOLDER not in request.prompt:
                raise OpadError(f"the prompt does not name {PLACEHOLDER}; add it where the concept belongs")
            adapter = bundle.adapter.to(self.base.device)
            text_states = adapter.text_states(self.base.text, [request.prompt], bundle.class_noun)
            keys_values = adapter.keys_values(text_states, self.base.student)
        self._keys_values[cache_key] = keys_values
        return keys_values

    def _check_shapes(self, bundle: Bundle) -> None:
        """Raise OpadError for tensors that do not fit the UNet, because they would fail a whole batch."""
        kind = type(bundle.adapter)
        if kind not in self._shapes:
            row = torch.zeros(self.base.text.encoder.config.hidden_size, device=self.base.device)
            self._shapes[kind] = _shapes_of(kind.initial(self.base.student, row))
        if _shapes_of(bundle.adapter) != self._shapes[kind]:
            raise OpadError(f"the shapes of the bundle's tensors do not fit the base {self.base.manifest.name}")


def _shapes_of(adapter: Adapter) -> dict[str, torch.Size]:
    return {name: x.shape for name, x in adapter.tensors().items()}


def _cache_key(request: ImageRequest) -> tuple[str | None, str]:
    return (request.bundle.id if request.bundle else None, request.prompt)


def noise_of(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the starting noise of an image, generated on the CPU so that a seed means the same on every device."""
    if not 0 <= seed <= MAX_SEED:
        raise OpadError(f"the seed must be in 0..{MAX_SEED}, got {seed}")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
