"""Generate images in one step, with one UNet for all concepts that takes keys and values as inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor, nn

from opad_core.adapters.adapter import text_states_of
from opad_core.bases.loading import Base
from opad_core.errors import OpadError, OtherBaseError
from opad_core.generation.bundle import Bundle
from opad_core.generation.fixed_sizes import SIZES, FixedSizes, split
from opad_core.generation.one_step import Decode, OneStep
from opad_core.networks.channels_last import use_channels_last
from opad_core.networks.denoiser import Denoiser
from opad_core.networks.text_encoder import PLACEHOLDER

MAX_SEED = 2**63 - 1
MAX_BATCH = 8
"""The most images that one pass generates. It limits how long the first image of a batch waits for the last one."""
Level = Literal["eager", "captured", "compiled"]
Functions = Mapping[str, Callable[..., Tensor]]
"""What runs in place of `OneStepGenerator.modules`, by the same names."""
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

    Keys and values are cached per (concept, prompt): 3.84 MB in half precision for SD-Turbo, twice that in float32.
    `cached_prompts` bounds the memory. A cached request costs one UNet pass and one decode. `sizes` are the batch sizes
    at which compiled and captured networks are made ready.
    """

    level: Level = "eager"

    def __init__(self, base: Base, *, cached_prompts: int = 256, sizes: tuple[int, ...] = SIZES) -> None:
        self.base, self.sizes = base, sizes
        self._packed: LRUCache[tuple[str | None, str], Tensor] = LRUCache(cached_prompts)
        self._functions: Functions | None = None

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """The networks of an image: "one_step" from noise to latents, and the decoders from latents to pixels."""
        modules: dict[str, nn.Module] = {"one_step": OneStep(self.base.student), "full": Decode(self.base.vae)}
        fast = None if self.base.no_fast_decoder else self.base.fast_decoder  # a damaged one is not loaded
        if fast is not None:
            modules["fast"] = Decode(fast)
        return modules

    def use(self, functions: Functions, level: Level) -> None:
        """Call these instead of the modules from now on."""
        self._functions, self.level = functions, level
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()  # else the memory of the graphs that these replace stays reserved

    def examples(self, size: int) -> dict[str, tuple[Tensor, ...]]:
        """Return inputs of each module for a batch of at most MAX_BATCH different images without a concept.

        The first call encodes their prompts. Later ones may come from any thread.
        """
        noise, packed = self._examples
        return {"one_step": (noise[:size], packed[:size]), "full": (noise[:size],), "fast": (noise[:size],)}

    @cached_property
    @torch.no_grad()
    def _examples(self) -> tuple[Tensor, Tensor]:
        manifest = self.base.manifest
        nouns = manifest.nouns or ["dog"]
        prompts = [manifest.templates[0].format(nouns[i % len(nouns)]) for i in range(MAX_BATCH)]
        return self._inputs([ImageRequest(None, prompt, seed) for seed, prompt in enumerate(prompts)])

    def use_channels_last(self) -> None:
        use_channels_last(self.modules.values())

    def batch_of(self, waiting: int) -> int:
        """Return how many of the waiting images to generate first, so that all are ready soonest; 0 if none waits."""
        if not waiting:
            return 0
        one_step = self._function("one_step")
        if isinstance(one_step, FixedSizes):
            return min(waiting, split(min(waiting, MAX_BATCH), one_step.seconds)[0])
        return min(waiting, MAX_BATCH)

    def has_cached(self, request: ImageRequest) -> bool:
        return _cache_key(request) in self._packed

    def forget(self, bundle_id: str) -> None:
        """Erase the keys and values of a concept in the cache, and what the last batches left in fixed buffers."""
        for cache_key in [key for key in self._packed if key[0] == bundle_id]:
            self._packed.pop(cache_key).zero_()
        for function in (self._functions or {}).values():
            if isinstance(function, FixedSizes):
                function.clear()

    @torch.no_grad()
    def prepare(self, request: ImageRequest) -> None:
        """Compute and cache the keys and values of a request. Raises OpadError as `generate` does."""
        self._check_decoder(request)
        self._packed_row(request)

    @torch.no_grad()  # not inference_mode: a network that loads inside could not be used for training later
    def generate(self, requests: list[ImageRequest]) -> np.ndarray:
        """Return images [b, r, r, 3] uint8 in the order of the requests, which may mix concepts and prompts.

        Raises OpadError for a bundle of another base, for a prompt that names no concept or more than one, and for the
        fast decoder on a base without one.
        """
        if not requests:
            raise OpadError("needs at least one image request")
        for request in requests:
            self._check_decoder(request)
        z_student = self._latents(requests)
        side = self.base.manifest.resolution
        images = np.empty((len(requests), side, side, 3), dtype=np.uint8)
        for decoder in {request.decoder for request in requests}:
            chosen = [i for i, request in enumerate(requests) if request.decoder == decoder]
            decoded = self._function(decoder)(z_student if len(chosen) == len(requests) else z_student[chosen])
            images[chosen] = _moved(decoded, torch.device("cpu")).numpy()
        return images

    def _check_decoder(self, request: ImageRequest) -> None:
        if request.decoder == "fast" and self.base.no_fast_decoder is not None:
            raise OpadError(self.base.no_fast_decoder)

    def _function(self, name: str) -> Callable[..., Tensor]:
        return (self._functions or self.modules)[name]

    def _latents(self, requests: list[ImageRequest]) -> Tensor:
        """Return the latents [b, 4, h, w] of the requests. A concept that changes the UNet has a pass of its own."""
        noise, packed = self._inputs(requests)
        own = [self._own_unet(request) for request in requests]
        if not any(own):
            return self._function("one_step")(noise, packed)
        parts: dict[int, Tensor] = {}
        for unet in {id(denoiser): denoiser for denoiser in own}.values():
            chosen = [i for i, denoiser in enumerate(own) if denoiser is unet]
            one_step = self._function("one_step") if unet is None else OneStep(unet)
            parts |= dict(zip(chosen, one_step(noise[chosen], packed[chosen]), strict=True))
        return torch.stack([parts[i] for i in range(len(requests))])

    def _own_unet(self, request: ImageRequest) -> Denoiser | None:
        """Return the UNet that the concept of a request has learned, or None if it leaves the student's as it is."""
        student = self.base.student
        denoiser = student if request.bundle is None else request.bundle.adapter.denoiser(student)
        return None if denoiser is student else denoiser

    def _inputs(self, requests: list[ImageRequest]) -> tuple[Tensor, Tensor]:
        """Return the noise [b, 4, h, w] and the packed keys and values [b, n] of the requests, on the device."""
        packed = torch.cat([self._packed_row(request) for request in requests])
        noise = torch.stack([noise_of(request.seed, self.base.latent_shape) for request in requests])
        return _moved(noise, self.base.device), packed

    def _packed_row(self, request: ImageRequest) -> Tensor:
        """Return the keys and values of one request, packed, [1, n], from the cache or computed."""
        cache_key = _cache_key(request)
        if cache_key in self._packed:
            return self._packed[cache_key]
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
            if bundle.network != "student":
                raise OpadError("the bundle is of the teacher, which generates in many steps; use the student's")
            self._check_shapes(bundle)
            if PLACEHOLDER not in request.prompt:
                raise OpadError(f"the prompt does not name {PLACEHOLDER}; add it where the concept belongs")
            adapter = bundle.adapter.to(self.base.device)
            text_states = text_states_of(adapter, self.base.text, [request.prompt], bundle.class_noun)
            keys_values = adapter.keys_values(text_states, adapter.denoiser(self.base.student))
        one_step = self.modules["one_step"]
        assert isinstance(one_step, OneStep)
        self._packed[cache_key] = packed = one_step.pack(keys_values)
        return packed

    def _check_shapes(self, bundle: Bundle) -> None:
        """Raise OpadError for tensors that do not fit the base, because they would fail a whole batch."""
        adapter = bundle.adapter
        shapes = {name: x.shape for name, x in adapter.tensors().items()}
        if shapes != adapter.expected_shapes(self.base.student, self.base.text):
            raise OpadError(f"the shapes of the bundle's tensors do not fit the base {self.base.manifest.name}")


def _cache_key(request: ImageRequest) -> tuple[str | None, str]:
    return (request.bundle.id if request.bundle else None, request.prompt)


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device. Between CPU and GPU it passes through page-locked memory, in one transfer."""
    if x.device.type == device.type or "cuda" not in (x.device.type, device.type):
        return x.to(device)
    if device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    pinned = torch.empty_like(x, device=device, pin_memory=True).copy_(x, non_blocking=True)
    torch.cuda.current_stream(x.device).synchronize()
    return pinned


def noise_of(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return the starting noise of an image, generated on the CPU so that a seed means the same on every device."""
    if not 0 <= seed <= MAX_SEED:
        raise OpadError(f"the seed must be in 0..{MAX_SEED}, got {seed}")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
