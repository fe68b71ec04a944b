"""The parts of `bench.gpu`. Each measures one aspect of a base and yields its figures."""

import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from opad_core import (
    Base,
    Bundle,
    ImageRequest,
    OneStepGenerator,
    OpadError,
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
from opad_core.training.loop import GOOD_STATE_EVERY, PREVIEW_EVERY, PREVIEW_IMAGES, Training

GIB = 2**30
IMAGES = 30
BATCHES = (2, 4, 8)
CONCEPTS = 4
WARM_UP, ITERATIONS = 2, 5
TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("default", {}),
    "paper": ("paper", {}),
    "crop": ("default", {"decode_crop": 0.5}),
}
"""A preset and changes to it, by name."""
TFLOP = {"default": 38.4, "paper": 41.1, "crop": 26.8}
"""TFLOP of an iteration at full size and 512 pixels, as counted by `python -m opad_core flops`."""

Figures = dict[str, Any]
Generate = Callable[[Tensor, KeysValues], Tensor]
"""Maps noise [b, 4, h, w] and keys and values to pixels [b, 3, r, r]."""


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


def switching(base: Base) -> Iterator[Figures]:
    """Measure images of one concept and of alternating concepts, in turns; then of a new concept."""
    generator = OneStepGenerator(base)
    files = [bundle_bytes(base, seed=seed) for seed in range(CONCEPTS + 1)]
    bundles = [read_bundle(data) for data in files[:CONCEPTS]]
    same, others = requests_of(base, bundles[:1] * CONCEPTS), requests_of(base, bundles)
    for request in others:
        generator.prepare(request)
    times: dict[str, list[float]] = {"same": [], "others": [], "batch_same": [], "batch_others": []}
    generator.generate(same)
    for number in range(IMAGES):
        turn = number % CONCEPTS
        times["same"].append(milliseconds(base, lambda: generator.generate(same[:1])))
        times["others"].append(milliseconds(base, lambda turn=turn: generator.generate(others[turn : turn + 1])))
        if number < IMAGES // 3:
            times["batch_same"].append(milliseconds(base, lambda: generator.generate(same)))
            times["batch_others"].append(milliseconds(base, lambda: generator.generate(others)))
    median = {name: statistics.median(values) for name, values in times.items()}
    yield {
        "same_concept_ms": median["same"],
        "another_each_time_ms": median["others"],
        "another_over_same": median["others"] / median["same"],
        f"batch_{CONCEPTS}_of_one_ms": median["batch_same"],
        f"batch_{CONCEPTS}_mixed_ms": median["batch_others"],
        "mixed_over_one": median["batch_others"] / median["batch_same"],
    }
    started = perf_counter()
    unseen = read_bundle(files[CONCEPTS])
    read = 1000 * (perf_counter() - started)
    [request] = requests_of(base, [unseen])
    first_sight = milliseconds(base, lambda: generator.prepare(request))
    new_prompt = milliseconds(base, lambda: generator.prepare(numbered(request, 0)))
    megabytes = len(files[CONCEPTS]) / 1e6
    yield {"bundle_mb": megabytes, "read_ms": read, "first_sight_ms": first_sight, "its_next_prompt_ms": new_prompt}


def graph(base: Base) -> Iterator[Figures]:
    """Experiment: replay UNet and decoder as one CUDA graph instead of launching each kernel."""
    generate = generate_function(base)
    for size in (1, 4):
        yield from replayed(base, generate, size, name=f"batch_{size}")
    networks = (base.student.unet, base.vae)
    try:
        for network in networks:
            network.to(memory_format=torch.channels_last)
        for size in (1, 4):
            yield from replayed(base, generate, size, name=f"channels_last_batch_{size}")
        torch.backends.cudnn.benchmark = True
        yield from replayed(base, generate, 1, name="channels_last_searched")
    finally:
        torch.backends.cudnn.benchmark = False
        for network in networks:
            network.to(memory_format=torch.contiguous_format)


def compiled(base: Base) -> Iterator[Figures]:
    """Experiment: torch.compile, alone and as a CUDA graph."""
    generate = generate_function(base)
    eps, keys_values = inputs_of(base, 1)
    eager = median_ms(base, lambda: to_uint8(generate(eps, keys_values)))
    fused = torch.compile(generate, dynamic=False)
    seconds = milliseconds(base, lambda: fused(eps, keys_values)) / 1000
    yield {"eager_ms": eager, "compile_s": seconds}
    yield {"compiled_ms": median_ms(base, lambda: to_uint8(fused(eps, keys_values)))}
    if base.device.type == "cuda":
        yield from replayed(base, fused, 1, name="compiled")


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


def iterate(learning: Training, losses: dict[str, Tensor]) -> None:
    losses |= learning.iterate()


class Replay:
    """A function of noise, keys and values, captured as a CUDA graph for one batch size."""

    def __init__(self, generate: Generate, eps: Tensor, keys_values: KeysValues) -> None:
        self._eps = eps.clone()
        self._keys_values = {layer: (key.clone(), value.clone()) for layer, (key, value) in keys_values.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # first calls select kernels and allocate memory, which must not be captured
            for _ in range(3):
                generate(self._eps, self._keys_values)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._pixels = generate(self._eps, self._keys_values)

    def __call__(self, eps: Tensor, keys_values: KeysValues) -> Tensor:
        """Return the pixels, which the next call overwrites."""
        self._eps.copy_(eps)
        for layer, pair in keys_values.items():
            for place, given in zip(self._keys_values[layer], pair, strict=True):
                place.copy_(given)
        self._graph.replay()
        return self._pixels


def replayed(base: Base, generate: Generate, size: int, *, name: str) -> Iterator[Figures]:
    """Measure milliseconds per image launched and replayed, and the largest difference of their pixels."""
    if base.device.type != "cuda":
        raise OpadError("CUDA graphs need a GPU")
    eps, keys_values = inputs_of(base, size)
    expected = to_uint8(generate(eps, keys_values)).astype(int)
    launched = median_ms(base, lambda: to_uint8(generate(eps, keys_values)))
    started = perf_counter()
    replay = Replay(generate, eps, keys_values)
    torch.cuda.synchronize()
    captured = perf_counter() - started
    difference = int(abs(to_uint8(replay(eps, keys_values)).astype(int) - expected).max())
    median = median_ms(base, lambda: to_uint8(replay(eps, keys_values)))
    yield {
        f"{name}_launched_ms_per_image": launched / size,
        f"{name}_replayed_ms_per_image": median / size,
        f"{name}_capture_s": captured,
        f"{name}_largest_difference": difference,
    }


def generate_function(base: Base) -> Generate:
    """Return what `OneStepGenerator.generate` does with keys and values, without the copy to the CPU."""

    def generate(eps: Tensor, keys_values: KeysValues) -> Tensor:
        return base.decode(base.student.one_step(eps, keys_values))

    return generate


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
