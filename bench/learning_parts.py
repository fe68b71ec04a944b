"""The parts of `bench.learning`. Each measures one aspect of learning a concept and yields its figures."""

import gc
import json
import logging
import math
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch._inductor.utils import clear_caches
from torch.utils.flop_counter import FlopCounterMode

from bench.chosen_base import chosen_base, noun_of
from bench.part_runner import GIB, Figures
from bench.timing import milliseconds, synchronize
from opad_core import Base, OpadConfig, Progress, export_bundle, override, preset, read_bundle, report_card
from opad_core.bases.precision import Precision
from opad_core.flops import TERA
from opad_core.methods import accelerated
from opad_core.methods.train import fast_training, new_training
from opad_core.reference_folder import read_references
from opad_core.training.loop import GOOD_STATE_EVERY, PREVIEW_EVERY, REPORT_EVERY, Training, run
from opad_core.training.memory import Rung, rung_for, save_memory
from opad_core.training.method import Hook, no_hook
from opad_core.training.tf32 import tf32_products
from worker.training.wall_time import WallTime

PLAIN, CAPTURED, COMPILED = "plain loop", "CUDA graphs", "compiled networks and CUDA graphs"
WAYS = (PLAIN, CAPTURED, COMPILED)
"""Ways to run an iteration. If one fails on this machine, the training falls back to the one before it."""
WARM_UP = 2
"""Iterations of a way that are not timed: they select kernels and create the optimizers' states."""
MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}
HOOKS = {
    "caches": "caches", "samples": "samples", "preview": "previews", "evaluation": "evaluations", "state": "checkpoints"
}  # fmt: skip
"""Parts of a job's wall time, as a job's page names them, by the loop's names. Others belong to an iteration."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    iterations: int
    """Iterations that are timed for each way."""
    job_iterations: int | None
    """Iterations of each stage that a job runs; the rest is computed. None: all."""


class Lab:
    """The base and the concept that parts measure.

    It holds the networks of one precision, so that memory figures belong to the part that runs.
    """

    def __init__(
        self, base: str | None, device: torch.device, folder: Path, effort: Effort, *,
        concept: Path, resolution: int, compile_cache: Path,
    ) -> None:  # fmt: skip
        """`base` is None for SD-Turbo's networks with random weights, which learn noise instead of the concept.

        `folder` is for the stand-in tokenizer of the random weights.
        """
        self.device, self.effort, self.compile_cache = device, effort, compile_cache
        self._name, self._folder, self._concept, self._resolution = base, folder, concept, resolution
        self._base: Base | None = None
        self._precision: Precision | None = None
        self._counts: dict[str, subprocess.Popen[str]] = {}
        """Processes that count the operations of a preset at full size, which takes 20 s, and what they counted."""
        self._counted: dict[str, dict[str, Any]] = {}

    def count_operations(self, presets: set[str]) -> None:
        """Start to count the operations of presets, if the base has random weights at full size."""
        for name in presets if self._name is None else ():
            command = [sys.executable, "-m", "opad_core", "flops", "--json", "--preset", name]
            self._counts[name] = subprocess.Popen(
                [*command, "--resolution", str(self._resolution)], stdout=subprocess.PIPE, text=True
            )

    def base(self, precision: Precision) -> Base:
        """Return the base with the networks of a training."""
        if self._base is None or self._precision != precision:
            self._base = None
            self.sweep()
            self._base, self._precision = self._built(precision), precision
        return self._base

    def forget(self) -> None:
        """Drop the networks and the references, so that they are built or read again."""
        self._base = None
        self.__dict__.pop("references", None)
        self.sweep()

    def rung(self, preset_name: str, precision: Precision) -> Rung:
        """Return how a trainer in this precision fits into what is free of the GPU. Loads no network."""
        manifest = self._chosen(precision).manifest
        batch_size = preset(preset_name, manifest.presets).batch_size
        return rung_for(
            resolution=manifest.resolution, batch_size=batch_size, preset=preset_name, setting=precision,
            device=self.device,
        )  # fmt: skip

    def _chosen(self, precision: Precision) -> Base:
        return chosen_base(
            self._name, self.device, self._folder, resolution=self._resolution, precision=precision
        )  # fmt: skip

    def _built(self, precision: Precision) -> Base:
        base = self._chosen(precision)
        base.load("training")
        if self.device.type == "cuda":
            base.use_channels_last()  # also for the plain loop, as every training on a GPU
        synchronize(self.device)
        return base

    def sweep(self) -> None:
        """Free memory that is no longer used, and measure peaks from now on."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    @cached_property
    def references(self) -> list[Image.Image]:
        if self._name is None:
            return [Image.effect_noise((1600, 1500), 60).convert("RGB") for _ in range(4)]
        return read_references(self._concept)

    def noun(self, base: Base) -> str:
        return noun_of(base) if self._name is None else (self._concept / "class.txt").read_text().strip()

    def training(self, base: Base, config: OpadConfig, way: str, *, hook: Hook = no_hook) -> Training:
        """Return a training of the concept that runs its iterations in this way, if it can."""
        concept = base, self.references, self.noun(base), config
        if way == PLAIN:
            return new_training(*concept, seed=0, hook=hook)
        if way == COMPILED:  # nothing is left in memory from an earlier compilation
            torch.compiler.reset()
            clear_caches()
        return fast_training(
            *concept, seed=0, hook=hook, compile_cache=self.compile_cache if way == COMPILED else None
        )  # fmt: skip

    @property
    def cache_state(self) -> str:
        """Whether a compilation starts from what an earlier one left on the disk."""
        return "warm" if any(self.compile_cache.rglob("*")) else "cold"

    def tflop(self, base: Base, config: OpadConfig, preset_name: str) -> float:
        """Return the TFLOP of an average iteration: as `flops` counts them, or of this base's first iterations."""
        if preset_name in self._counts:
            self._counted[preset_name] = json.loads(self._counts[preset_name].communicate()[0])
            del self._counts[preset_name]
        if preset_name in self._counted:
            return self._counted[preset_name]["tflop_per_iteration"]
        training = self.training(base, config, PLAIN)
        training.method.prepare()
        with FlopCounterMode(display=False) as counter:
            for _ in range(self.effort.iterations):
                training.iterate()
        return counter.get_total_flops() / TERA / self.effort.iterations

    def close(self) -> None:
        """End the counting processes whose result no part needed."""
        for process in self._counts.values():
            process.kill()
            process.communicate()


@cache
def matrix_tflop_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Return the speed of a large matrix product in a dtype, the best of five."""
    side = MATRIX_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        for _ in range(5):
            torch.mm(a, b)

    started, best = perf_counter(), math.inf
    multiply()
    for _ in range(5):
        synchronize(device)
        began = perf_counter()
        multiply()
        synchronize(device)
        best = min(best, (perf_counter() - began) / 5)
        if perf_counter() - started > 10:  # half precision takes long on some CPUs
            break
    return 2 * side**3 / TERA / best


def matrix_rate(lab: Lab, precision: Precision) -> Iterator[Figures]:
    """Measure the speed of matrix products, which no iteration can exceed."""
    dtypes = (torch.float16, torch.bfloat16) if precision == "half" else (torch.float32,)
    for dtype in dtypes:
        yield {f"{str(dtype).removeprefix('torch.')}_tflop_per_s": matrix_tflop_per_s(lab.device, dtype)}


def iterations(lab: Lab, precision: Precision, *, preset_name: str) -> Iterator[Figures]:
    """Measure the iterations of the distillation stage in each way that the device has, the plain loop first."""
    base = lab.base(precision)
    whole = preset(preset_name, base.manifest.presets)
    enough = WARM_UP + lab.effort.iterations + max(REPORT_EVERY.values())
    config = override(whole, {"iterations": max(whole.iterations, enough)})
    with tf32_products(base):
        rate, tflop = matrix_tflop_per_s(lab.device, base.dtype), lab.tflop(base, config, preset_name)
        yield {"batch": config.batch_size, "precision": precision, "tflop": tflop, "matrix_tflop_per_s": rate}
        start_s: dict[str, float] = {}
        for way in WAYS if lab.device.type == "cuda" else (PLAIN,):
            row = timed_way(lab, base, way, partial(lab.training, base, config, way))
            start_s[row["what"]] = row["start_s"]
            if row["what"] == COMPILED:
                row["compilation_s"] = start_s[COMPILED] - start_s.get(CAPTURED, start_s[PLAIN])
            seconds = row["iteration_s"]
            yield row | {"ms_per_tflop": 1000 * seconds / tflop, "of_matrix_rate": tflop / seconds / rate}


def timed_way(lab: Lab, base: Base, way: str, start: Callable[[], Training]) -> Figures:
    """Return the figures of one way, in which `start` returns a training of the base.

    `what` is the way that was used, and `fell_back` says why it is another one.
    `start_s` is the time before the first iteration: preparing the references, and on CUDA the trial, compilation and
    capture.
    """
    lab.sweep()
    cache_state = lab.cache_state
    trainings: list[Training] = []
    with reasons_to_fall_back() as reasons:
        start_s = milliseconds(base, lambda: trainings.append(start())) / 1000
    [training] = trainings
    used = WAYS[WAYS.index(way) - len(reasons)]
    seconds, losses = time_iterations(training, lab.effort.iterations)
    row: Figures = {
        "what": used,
        "iteration_s": seconds,
        "start_s": start_s,
        "finite": all(math.isfinite(loss) for row in losses for loss in row.values()),
    }
    if way == COMPILED:
        row["compile_cache"] = cache_state
    if reasons:
        row["fell_back"] = "; ".join(reasons)
    return row | peak_memory(lab.device)


def time_iterations(training: Training, count: int) -> tuple[float, list[dict[str, float]]]:
    """Return the mean seconds of `count` iterations or a few more, which are reported as in a job, and their losses."""
    device = training.data.base.device
    training.method.prepare()
    for _ in range(WARM_UP):
        training.iterate()
    synchronize(device)
    started, losses = perf_counter(), list[dict[str, float]]()
    while len(losses) < count:
        losses += training.iterate_until_report(REPORT_EVERY.get(device.type, 1))
    return (perf_counter() - started) / len(losses), losses


def job(lab: Lab, precision: Precision, *, preset_name: str, way: str) -> Iterator[Figures]:
    """Run a job from reading the networks to the report card, and say where its wall time goes.

    "preparation" is the captions of the references, and on CUDA the trial, compilation and capture. If
    `Effort.job_iterations` shortens the stages, each part is multiplied by how often a whole job has it.
    """
    lab.forget()
    if lab.device.type != "cuda":
        way = PLAIN  # as every training on this device
    wall, counts, job_s = WallTime(), Counter[str](), dict[str, float]()
    wall.begin("load")
    base = lab.base(precision)
    wall.begin("references")
    references = lab.references
    whole = preset(preset_name, base.manifest.presets)
    limit = lab.effort.job_iterations or whole.total_iterations
    stages = {name: min(limit, getattr(whole, name)) for name in ("iterations", "collaborative_iterations")}
    config = override(whole, stages)
    planned = counts if config == whole else planned_counts(whole)

    def hook(name: str) -> AbstractContextManager[None]:
        if name not in HOOKS:
            return no_hook(name)
        counts[HOOKS[name]] += 1
        return wall.part(HOOKS[name])

    def report(progress: Progress) -> None:
        counts[progress.stage] += len(progress.losses)
        if progress.step == progress.total_steps:
            wall.begin("bundle")
        elif progress.step >= config.distillation_iterations:
            wall.begin("collaborative")

    def ended_parts(running: str) -> Iterator[Figures]:
        for part, seconds in wall.seconds().items():
            if part not in (*job_s, running, "start"):
                each, count = seconds / max(1, counts[part]), planned.get(part, 1)
                job_s[part] = each * count
                yield {"what": part, "count": count, "each_s": each, "job_s": job_s[part]}

    wall.begin("preparation")
    cache_state = lab.cache_state
    with tf32_products(base), reasons_to_fall_back() as reasons:
        training = lab.training(base, config, way, hook=hook)
        synchronize(lab.device)
        yield {"way": WAYS[WAYS.index(way) - len(reasons)]}
        if way == COMPILED:
            yield {"compile_cache": cache_state}
        counts.clear()  # those of the trial
        wall.begin("distillation" if config.distillation_iterations else "collaborative")
        data = run(training, report=report, should_stop=lambda: False)
    iterations = training.step if config == whole else whole.total_iterations
    if training.ended_early is not None:
        yield {"ended_early": training.ended_early}
    del training
    bundle = read_bundle(data)
    wall.begin("exports")
    yield from ended_parts("exports")
    export_bundle(bundle, base)
    wall.begin("report_card")
    yield from ended_parts("report_card")
    scores = report_card(bundle, base, references).personalised
    wall.begin("end")
    yield from ended_parts("end")
    yield {"what": "sum", "count": iterations, "job_s": sum(job_s.values())} | peak_memory(lab.device)
    yield {"identity": scores.identity, "scene_accuracy": scores.scene_accuracy}


def planned_counts(config: OpadConfig) -> dict[str, int]:
    """Return how often a whole job has each part that iterations bring with them."""
    total = config.total_iterations
    return {
        "distillation": config.distillation_iterations,
        "collaborative": config.collaborative_iterations,
        "samples": 1,
        "previews": math.ceil(total / PREVIEW_EVERY),
        "evaluations": math.ceil(total / config.eval_every) if config.eval_every else 0,
        "checkpoints": total // GOOD_STATE_EVERY,
    }


def limited(lab: Lab, precision: Precision, *, preset_name: str, gib: float) -> Iterator[Figures]:
    """Measure iterations on a GPU of which only `gib` may be used, and which save memory as a trainer does there.

    "out_of_memory" is a result, not a failure.
    """
    lab.forget()
    whole = torch.cuda.get_device_properties(lab.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / whole), lab.device)
    try:
        rung = lab.rung(preset_name, precision)
        limits = {"limit_gib": gib, "rung": rung.number}
        for way in (PLAIN, CAPTURED):
            try:
                base = lab.base(rung.precision)
                save_memory(base, rung)
                config = preset(preset_name, base.manifest.presets)
                with tf32_products(base):
                    start = partial(lab.training, base, config, way)
                    yield timed_way(lab, base, way, start) | limits
            except torch.OutOfMemoryError:
                yield {"what": way, "out_of_memory": True} | limits | peak_memory(lab.device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, lab.device)
        lab.forget()  # other parts save no memory


@contextmanager
def reasons_to_fall_back() -> Iterator[list[str]]:
    """Collect the warnings of `accelerated`: one for each way that failed."""
    reasons: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            reasons.append(record.getMessage())

    collector = Collector(logging.WARNING)
    accelerated.log.addHandler(collector)
    try:
        yield reasons
    finally:
        accelerated.log.removeHandler(collector)


def peak_memory(device: torch.device) -> Figures:
    """Return the peak since the last sweep on a GPU, networks included; on a CPU that of the process so far."""
    if device.type != "cuda":
        return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
    return {
        "peak_gib": torch.cuda.max_memory_allocated(device) / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved(device) / GIB,
    }
