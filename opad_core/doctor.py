"""Proof that the whole method runs on a base: both stages, a picture and a bundle's round trip, with what each costs.

With a base's own weights, or with random ones at the full size of SD-Turbo (`random_base`): what is learned then means
nothing, but every network, loss, optimiser and file has its real shape.
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
from opad_core.config import OpadConfig, override
from opad_core.errors import DivergedError, OpadError
from opad_core.generation.bundle import Bundle, read_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.training.loop import Training

GIB = 2**30
NEEDED_GIB = 16.5
"""Of free memory, for the full size on a CPU at 256 pixels and batch 1, which held 15.6 at most."""
SAMPLE_EVERY = 0.02
"""Seconds between two looks at the process's memory."""
PICTURES = 3
"""Pictures whose mean time is told."""
STEPS = {
    "step_teacher": "teacher's step",
    "step_student": "student's step",
    "step_discriminators": "discriminators' step",
}
"""The three steps of an iteration, as methods of `Training`."""


@dataclass(frozen=True)
class Row:
    """What one part of the examination cost."""

    part: str
    parameters: int = 0
    trainable: int = 0
    seconds: float = 0.0
    peak_gib: float = 0.0
    """Most memory held while it ran, networks included: the process's on a CPU, the allocator's on a GPU."""

    def line(self) -> str:
        """Of a Markdown table under HEADER."""
        counts = [f"{count / 1e6:.2f} M" if count else "" for count in (self.parameters, self.trainable)]
        time = f"{self.seconds:.1f} s" if self.seconds >= 1 else f"{self.seconds * 1000:.0f} ms"
        return f"| {self.part} | {' | '.join(counts)} | {self.peak_gib:.1f} GiB | {time} |"


HEADER = "| part | parameters | trained | peak memory | time |\n|---|---:|---:|---:|---:|"


def random_base(folder: Path, device: torch.device, *, resolution: int | None) -> Base:
    """SD-Turbo's architectures with random weights; None is 512 pixels on a GPU, else 256.

    On a CPU blocks of the UNets and the autoencoder are computed again in the backward pass instead of kept.
    Raises OpadError where memory is short or the resolution odd.
    """
    resolution = resolution or (512 if device.type == "cuda" else 256)
    if resolution % 64:
        raise OpadError(f"--resolution must be a multiple of 64, got {resolution}")
    if device.type == "cpu" and (free := psutil.virtual_memory().available / GIB) < NEEDED_GIB:
        raise OpadError(f"the full size needs {NEEDED_GIB} GiB of free memory, {free:.1f} are; stop other programs")
    base = FullSizeBase(folder, device, resolution=resolution)
    if device.type == "cpu":
        for network in (base.vae, base.teacher.unet, base.student.unet):
            network.enable_gradient_checkpointing()
    return base


def examine(base: Base, config: OpadConfig, *, report: Callable[[Row], None]) -> list[Row]:
    """One iteration of each stage, a picture and a bundle written and read; each row is reported when it is there.

    A GPU does an iteration first that is not timed. Raises DivergedError for losses that are no
    numbers, OpadError for a bundle that does not come back as it was.
    """
    rows: list[Row] = []

    def measured(part: str, run: Callable[[], Any], *, times: int = 1) -> Any:
        """What `run` answers; its row tells the time of one of `times` runs."""
        with _measured(base.device) as cost:
            for _ in range(times):
                answer = run()
        rows.append(Row(part, seconds=cost.seconds / times, peak_gib=cost.peak_gib, **_parameters(answer)))
        report(rows[-1])
        return answer

    for name, build in _networks(base).items():
        measured(name, build)
    warm_up = int(base.device.type == "cuda")
    short = {"iterations": 1 + warm_up, "collaborative_iterations": 1, "samples": 2}
    config = override(config, short | {"augmentation_cache": min(config.augmentation_cache, config.batch_size)})
    noun = (base.manifest.nouns or ["dog"])[0]
    references = [Image.effect_noise((300, 280), 60).convert("RGB") for _ in range(3)]
    training = measured("training state", lambda: Training(base, references, noun, config, seed=0))
    if config.augmentation_cache:
        measured(f"{config.augmentation_cache} of the bank's views", training.draw_banks)
    for _ in range(warm_up):
        _check(training.iterate())

    started = perf_counter()
    undisturbed = {name: getattr(training, name) for name in STEPS}
    for name, step in undisturbed.items():
        setattr(training, name, lambda *given, step=step, part=STEPS[name]: measured(part, lambda: step(*given)))
    _check(training.iterate())
    for name, step in undisturbed.items():
        setattr(training, name, step)
    peak = max(row.peak_gib for row in rows[-len(STEPS) :])
    rows.append(Row("distillation iteration", seconds=perf_counter() - started, peak_gib=peak))
    report(rows[-1])

    measured("drawing samples", training.draw_samples)
    _check(measured("collaborative iteration", training.iterate))
    bundle = measured("bundle, written and read", lambda: _round_trip(training))
    generator = OneStepGenerator(base)
    prompt = base.manifest.scene_prompts[0].format(PLACEHOLDER)
    measured("first picture", lambda: generator.generate([ImageRequest(bundle, prompt, 0)]))
    measured("each next picture", lambda: generator.generate([ImageRequest(bundle, prompt, 1)]), times=PICTURES)
    return rows


def _networks(base: Base) -> dict[str, Callable[[], list[nn.Module]]]:
    """In the order in which they are built; the first two backbones are those of D1 and D2, the third is identity."""
    return {
        "text encoder": lambda: [base.text.encoder],
        "autoencoder": lambda: [base.vae],
        "teacher": lambda: [base.teacher.unet],
        "student": lambda: [base.student.unet],
        "CLIP with identity projection": lambda: [base.identity],
        "DINO and DINOv2": lambda: list(base.backbones[:2]),
    }


def _parameters(answer: Any) -> dict[str, int]:
    """Of networks all, of a training what it trains."""
    if isinstance(answer, Training):
        state = answer.state
        trained = (*state.averaged_parameters(), *state.teacher.parameters(), *state.heads.parameters())
        return {"trainable": sum(parameter.numel() for parameter in trained)}
    if isinstance(answer, list):
        return {"parameters": sum(parameter.numel() for network in answer for parameter in network.parameters())}
    return {}


def _check(losses: dict[str, Tensor]) -> None:
    if wrong := [name for name, loss in losses.items() if not torch.isfinite(loss)]:
        raise DivergedError(f"the loss {wrong[0]} is not a number on this machine")


def _round_trip(training: Training) -> Bundle:
    """The trained bundle, through a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "concept.safetensors"
        file.write_bytes(training.bundle())
        bundle = read_bundle(file.read_bytes())
    state = training.state
    first = bundle.projections.tensors()[f"{state.student.layers[0]}.to_k.weight"]
    learned = {"token row": (bundle.token_row, state.student_average[-1]), "keys": (first, state.student_average[0])}
    for name, (read, written) in learned.items():
        if not torch.allclose(read, written.detach().cpu(), rtol=2**-10, atol=2**-24):  # half precision's rounding
            raise OpadError(f"the bundle's {name} did not come back as they were written")
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

    def watch() -> None:
        while True:
            cost.peak_gib = max(cost.peak_gib, process.memory_info().rss / GIB)
            if done.wait(SAMPLE_EVERY):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = perf_counter() - started
        done.set()
        watcher.join()
