"""Run the whole method once on a base and measure each part: both stages, an image, and a bundle's round trip.

The base has its own weights, or random ones at the full size of SD-Turbo (`random_base`). Random weights learn nothing
useful, but every network, loss, optimizer and file has its real shape.
"""

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import torch
from PIL import Image
from torch import Tensor, nn

from opad_core.bases.full_size import FullSizeBase
from opad_core.bases.loading import Base
from opad_core.bases.precision import Precision, dtype_of
from opad_core.errors import DivergedError, OpadError
from opad_core.generation.bundle import Bundle, read_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.train import new_training
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.training.config import override
from opad_core.training.loop import Training
from opad_core.training.memory import Rung, save_memory
from opad_core.training.tf32 import tf32_products

GIB = 2**30
NEEDED_GIB = 16.5
"""Free memory that the full size needs on a CPU at 256 pixels and batch 1; the measured peak is 15.6."""
SAMPLE_EVERY = 0.02
"""Seconds between two readings of the process's memory."""
IMAGES = 3
"""Images whose mean time is reported."""
SAMPLES = "generating samples"
PARTS = {
    "teacher": "teacher's step",
    "student": "student's step",
    "discriminators": "discriminators' step",
    "samples": SAMPLES,
}
"""Names of the rows, by the name of the part in OPAD's iteration."""


@dataclass(frozen=True)
class Row:
    """The cost of one part of the run."""

    part: str
    parameters: int = 0
    trainable: int = 0
    seconds: float = 0.0
    peak_gib: float = 0.0
    """Peak memory during the part, networks included: of the process on a CPU, of the allocator on a GPU."""

    def line(self) -> str:
        """Return a row of a Markdown table under HEADER."""
        counts = [f"{count / 1e6:.2f} M" if count else "" for count in (self.parameters, self.trainable)]
        time = f"{self.seconds:.1f} s" if self.seconds >= 1 else f"{self.seconds * 1000:.0f} ms"
        return f"| {self.part} | {' | '.join(counts)} | {self.peak_gib:.1f} GiB | {time} |"


HEADER = "| part | parameters | trained | peak memory | time |\n|---|---:|---:|---:|---:|"


def usual_resolution(device: torch.device) -> int:
    """Return the resolution at which a device can run random weights, in pixels."""
    return 512 if device.type == "cuda" else 256


def random_base(folder: Path, device: torch.device, *, resolution: int, precision: Precision) -> Base:
    """Return SD-Turbo's architectures with random weights.

    On a CPU the UNets and the autoencoder use gradient checkpointing. Raises OpadError if memory is too short or the
    resolution is not a multiple of 64.
    """
    if resolution % 64:
        raise OpadError(f"--resolution must be a multiple of 64, got {resolution}")
    if device.type == "cpu" and (free := psutil.virtual_memory().available / GIB) < NEEDED_GIB:
        raise OpadError(f"the full size needs {NEEDED_GIB} GiB of free memory, got {free:.1f}; stop other programs")
    base = FullSizeBase(folder, device, resolution=resolution, dtype=dtype_of(precision))
    if device.type == "cpu":
        for network in (base.vae, base.teacher.unet, base.student.unet):
            network.enable_gradient_checkpointing()
    return base


def examine(base: Base, config: OpadConfig, rung: Rung, *, report: Callable[[Row], None]) -> list[Row]:
    """Run an iteration of each stage, generate images, write and read a bundle; report each row when it is measured.

    Memory is saved as `rung` says. On a GPU an iteration that is not timed runs first. Raises DivergedError for losses
    that are not finite, OpadError for a bundle that differs after it is written and read.
    """
    with tf32_products(base):
        return _examined(base, config, rung, report)


def _examined(base: Base, config: OpadConfig, rung: Rung, report: Callable[[Row], None]) -> list[Row]:
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        report(row)

    def measured(part: str, run: Callable[[], Any], *, times: int = 1) -> Any:
        """Return the result of `run`, and add a row with the mean time of `times` runs."""
        with _measured(base.device) as cost:
            for _ in range(times):
                answer = run()
        add(Row(part, seconds=cost.seconds / times, peak_gib=cost.peak_gib, **_parameters(answer)))
        return answer

    for name, build in _networks(base).items():
        measured(name, build)
    save_memory(base, rung)
    warm_up = int(base.device.type == "cuda")
    short = {"iterations": 1 + warm_up, "collaborative_iterations": 1, "samples": 2}
    config = override(config, short | {"augmentation_cache": min(config.augmentation_cache, config.batch_size)})
    noun = (base.manifest.nouns or ["dog"])[0]
    references = [Image.effect_noise((300, 280), 60).convert("RGB") for _ in range(3)]
    parts: list[Row] = []

    @contextmanager
    def hook(part: str) -> Iterator[None]:
        with _measured(base.device) as cost:
            yield
        parts.append(Row(PARTS[part], seconds=cost.seconds, peak_gib=cost.peak_gib))

    training = measured("training state", lambda: new_training(base, references, noun, config, seed=0, hook=hook))
    if config.augmentation_cache:
        measured(f"{config.augmentation_cache} views of the augmentation cache", training.method.prepare)
    for _ in range(warm_up):
        _check(training.iterate())

    for stage in ("distillation", "collaborative"):
        parts.clear()
        started = perf_counter()
        _check(training.iterate())
        seconds = perf_counter() - started
        for row in parts:
            if row.part == SAMPLES:
                seconds -= row.seconds
            if stage == "distillation" or row.part == SAMPLES:
                add(row)
        peak = max(row.peak_gib for row in parts if row.part != SAMPLES)
        add(Row(f"{stage} iteration", seconds=seconds, peak_gib=peak))

    bundle = measured("bundle, written and read", lambda: _round_trip(training))
    generator = OneStepGenerator(base)
    prompt = base.manifest.scene_prompts[0].format(PLACEHOLDER)
    measured("first image", lambda: generator.generate([ImageRequest(bundle, prompt, 0)]))
    measured("each next image", lambda: generator.generate([ImageRequest(bundle, prompt, 1)]), times=IMAGES)
    return rows


def _networks(base: Base) -> dict[str, Callable[[], list[nn.Module]]]:
    """Return functions that build the networks, in this order. The third backbone is the identity network."""
    return {
        "text encoder": lambda: [base.text.encoder],
        "autoencoder": lambda: [base.vae],
        "teacher": lambda: [base.teacher.unet],
        "student": lambda: [base.student.unet],
        "CLIP with identity projection": lambda: [base.identity],
        "DINO and DINOv2": lambda: list(base.backbones[:2]),
    }


def _parameters(answer: Any) -> dict[str, int]:
    """Count the parameters of networks, or the trainable parameters of a training."""
    if isinstance(answer, Training):
        optimizers = answer.method.optimizers.values()
        return {"trainable": sum(p.numel() for optimizer in optimizers for p in optimizer.parameters)}
    if isinstance(answer, list):
        return {"parameters": sum(parameter.numel() for network in answer for parameter in network.parameters())}
    return {}


def _check(losses: dict[str, Tensor]) -> None:
    if wrong := [name for name, loss in losses.items() if not torch.isfinite(loss)]:
        raise DivergedError(f"the loss {wrong[0]} is not finite on this machine")


def _round_trip(training: Training) -> Bundle:
    """Write the trained bundle to a file and read it back."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "concept.safetensors"
        file.write_bytes(training.bundle())
        bundle = read_bundle(file.read_bytes())
    read = bundle.adapter.tensors()
    for name, written in training.average.tensors().items():
        if not torch.equal(read[name], written.cpu()):
            raise OpadError(f"the bundle's {name} changed when it was written and read")
    return bundle


@dataclass
class _Cost:
    seconds: float = 0.0
    peak_gib: float = 0.0


@contextmanager
def _measured(device: torch.device) -> Iterator[_Cost]:
    cost = _Cost()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        started = perf_counter()
        yield cost
        torch.cuda.synchronize(device)
        cost.seconds = perf_counter() - started
        cost.peak_gib = torch.cuda.max_memory_allocated(device) / GIB
        return
    process, done = psutil.Process(), threading.Event()

    def sample() -> None:
        while True:
            cost.peak_gib = max(cost.peak_gib, process.memory_info().rss / GIB)
            if done.wait(SAMPLE_EVERY):
                return

    sampler = threading.Thread(target=sample)
    sampler.start()
    started = perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = perf_counter() - started
        done.set()
        sampler.join()
