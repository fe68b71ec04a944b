"""The parts of `bench.gpu`. Each measures one aspect of a base and yields its figures."""

import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bench.part_runner import GIB, Figures
from opad_core import (
    Base,
    Bundle,
    ImageRequest,
    OneStepGenerator,
    override,
    preset,
    read_bundle,
    write_bundle,
)
from opad_core.adapters.key_value import KeyValueAdapter, pretrained_projections
from opad_core.bases.full_size import FullSizeBase
from opad_core.flops import iterations_by_share
from opad_core.generation.generator import noise_of
from opad_core.methods.train import new_training
from opad_core.networks.denoiser import KeysValues
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.pixels import to_uint8
from opad_core.training.loop import GOOD_STATE_EVERY, PREVIEW_EVERY, PREVIEW_IMAGES

IMAGES = 30
BATCHES = (2, 4, 8)
WARM_UP, ITERATIONS = 2, 5
TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("default", {}),
    "paper": ("paper", {}),
    "crop": ("default", {"decode_crop": 0.5}),
}
"""A preset and changes to it, by name."""
TFLOP = {"default": 38.4, "paper": 41.1, "crop": 26.8}
"""TFLOP of an iteration at full size and 512 pixels, as counted by `python -m opad_core flops`."""


def image(base: Base) -> Iterator[Figures]:
    """Measure one-step images with cached prompts, as an engine generates them, and then their parts."""
    built = milliseconds(base, lambda: (base.text, base.student, base.vae)) / 1000
    generator, bundle = OneStepGenerator(base), read_bundle(bundle_bytes(base, seed=0))
    one = requests_of(base, [bundle])
    first = milliseconds(base, lambda: generator.generate(one))
    times = sorted(milliseconds(base, lambda: generator.generate(one)) for _ in range(IMAGES))
    yield {
        "networks_built_s": built,
        "first_ms": first,
        "p50_ms": statistics.median(times),
        "p95_ms": times[int(0.95 * IMAGES)],
    } | memory(base, "peak_gib")
    for size in BATCHES:
        batch = requests_of(base, [bundle] * size)
        median = median_ms(base, lambda batch=batch: generator.generate(batch), times=5)
        yield {f"batch_{size}_ms_per_image": median / size} | memory(base, f"batch_{size}_peak_gib")

    eps, keys_values = inputs_of(base, 1)
    z = base.student.one_step(eps, keys_values)
    pixels, prompts = base.decode(z), iter(range(1000))
    yield {
        "new_prompt_ms": median_ms(base, lambda: generator.prepare(numbered(one[0], next(prompts)))),
        "unet_ms": median_ms(base, lambda: base.student.one_step(eps, keys_values)),
        "decode_ms": median_ms(base, lambda: base.decode(z)),
        "to_uint8_ms": median_ms(base, lambda: to_uint8(pixels)),
    }


def training(base: Base, *, name: str) -> Iterator[Figures]:
    """Measure iterations of the distillation stage, and predict the time of a whole job.

    The cost of an iteration depends on how many of its images have a target. Both kinds are timed and weighted.
    """
    chosen, changes = TRAININGS[name]
    whole = override(preset(chosen, base.manifest.presets), changes)
    few = override(
        whole,
        {
            "augmentation_cache": min(whole.augmentation_cache, 2 * whole.batch_size),
            "iterations": max(whole.iterations, 2 * (WARM_UP + ITERATIONS)),
        },
    )
    references = [Image.effect_noise((1600, 1500), 60).convert("RGB") for _ in range(4)]
    built = milliseconds(base, lambda: (base.text, base.vae, base.teacher, base.student, base.backbones)) / 1000
    started = perf_counter()
    learning = new_training(base, references, noun_of(base), few, seed=0)
    setup = perf_counter() - started
    caches = milliseconds(base, learning.method.prepare) / 1000
    seconds, finite = 0.0, True
    kinds: Figures = {}
    losses: dict[str, Tensor] = {}
    for share, config in iterations_by_share(few):
        learning = new_training(base, references, noun_of(base), config, seed=0)
        learning.method.prepare()
        for _ in range(WARM_UP):
            learning.iterate()
        times = []
        for _ in range(ITERATIONS):
            losses: dict[str, Tensor] = {}
            times.append(
                milliseconds(base, lambda losses=losses, learning=learning: losses.update(learning.iterate())) / 1000
            )
            finite = finite and all(bool(loss.isfinite()) for loss in losses.values())
        kinds[f"share_{share:.3f}_s"] = statistics.median(times)
        seconds += share * statistics.median(times)
    minutes = whole.total_iterations * seconds / 60
    yield {
        "batch": whole.batch_size,
        "networks_built_s": built,
        "iteration_s": seconds,
        **kinds,
        **tera_per_second(base, name, seconds),
        "iterations": whole.total_iterations,
        "iterations_min": minutes,
        "finite": finite,
    } | memory(base, "peak_gib")

    preview = median_ms(base, learning.preview, times=1) / 1000
    evaluation = median_ms(base, learning.evaluate, times=1) / 1000 if whole.eval_every else 0.0
    save = median_ms(base, learning.save, times=1) / 1000
    view = caches / (2 * few.augmentation_cache) if few.augmentation_cache else 0.0
    overhead = setup + 3 * whole.augmentation_cache * view + whole.samples * preview / PREVIEW_IMAGES
    overhead += whole.total_iterations * (preview / PREVIEW_EVERY + save / GOOD_STATE_EVERY)
    if whole.eval_every:
        overhead += whole.total_iterations / whole.eval_every * evaluation
    yield {
        "start_s": setup,
        "cached_view_s": view,
        "preview_s": preview,
        "evaluation_s": evaluation,
        "state_s": save,
        "job_min": minutes + overhead / 60,
    } | memory(base, "job_peak_gib")


def noun_of(base: Base) -> str:
    return (base.manifest.nouns or ["dog"])[0]


def bundle_bytes(base: Base, *, seed: int) -> bytes:
    """Return a bundle of the untouched student. Each seed gives another bundle."""
    noun = noun_of(base)
    return write_bundle(
        KeyValueAdapter.initial(base.student, base.text.embedding_of(noun)),
        method="opad",
        class_noun=noun,
        base=base.manifest.name,
        base_sha256=base.manifest.sha256,
        config={},
        seed=seed,
    )


def requests_of(base: Base, bundles: list[Bundle]) -> list[ImageRequest]:
    """Return a request for each bundle, all with one prompt."""
    prompt = base.manifest.scene_prompts[0].format(PLACEHOLDER)
    return [ImageRequest(bundle, prompt, seed) for seed, bundle in enumerate(bundles)]


def numbered(request: ImageRequest, number: int) -> ImageRequest:
    """Return the request with a new prompt."""
    return ImageRequest(request.bundle, f"{request.prompt} {number}", request.seed)


def inputs_of(base: Base, size: int) -> tuple[Tensor, KeysValues]:
    """Return the student's inputs for a batch of one concept: noise, keys and values."""
    requests = requests_of(base, [read_bundle(bundle_bytes(base, seed=0))] * size)
    eps = torch.stack([noise_of(request.seed, base.latent_shape) for request in requests]).to(base.device)
    row = base.text.embedding_of(noun_of(base))
    states = base.text.encode([request.prompt for request in requests], [noun_of(base)] * size, [row] * size)
    return eps, pretrained_projections(base.student).to(base.device).requires_grad_(False)(states)


def milliseconds(base: Base, run: Callable[[], Any]) -> float:
    """Return the duration of one call, including work that the device still has to finish."""
    synchronize(base.device)
    started = perf_counter()
    run()
    synchronize(base.device)
    return 1000 * (perf_counter() - started)


def median_ms(base: Base, run: Callable[[], Any], *, times: int = 10) -> float:
    """Return the median duration after a call that is not counted."""
    run()
    return statistics.median(milliseconds(base, run) for _ in range(times))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(base: Base, name: str) -> Figures:
    """Return the peak memory of PyTorch's allocator in this part, networks included; nothing on a CPU."""
    return {name: torch.cuda.max_memory_allocated(base.device) / GIB} if base.device.type == "cuda" else {}


def tera_per_second(base: Base, name: str, seconds: float) -> Figures:
    if isinstance(base, FullSizeBase) and base.manifest.resolution == 512:
        return {"tflop_per_s": TFLOP[name] / seconds}
    return {}
