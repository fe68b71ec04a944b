"""The parts of `bench.engine` that run in one process. Each times contenders in turns and yields their figures."""

import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from bench.chosen_base import noun_of
from bench.engine_peers import HotSwapped, Lora, MixedBatches, Selected, compile_networks, scheduler_of
from bench.part_runner import Figures
from bench.timing import milliseconds, synchronize
from opad_core import Base, Bundle, ImageRequest, OneStepGenerator, export_bundle, read_bundle, write_bundle
from opad_core.adapters.key_value import KeyValueAdapter, pretrained_projections
from opad_core.bases.precision import Precision
from opad_core.generation.compiled import capture, compiler_for, fill_compile_cache, load_compile_cache
from opad_core.generation.generator import Functions, Level
from opad_core.known_answers.stock_pipeline import StockPipeline
from opad_core.networks.text_encoder import PLACEHOLDER

LORAS = 8
"""As many as the largest batch has images. The peers' times do not depend on how many other LoRAs exist."""
COMPILERS_FOLDERS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Names in the environment of the folders in which Inductor and Triton keep what they compiled."""
STOCK = "stock, eager"
"""The contender that every comparison contains and every ratio is of."""

Run = Callable[[int], Any]
"""One call of a contender in a numbered round."""


@dataclass(frozen=True)
class Effort:
    """When a comparison ends: after `rounds`, or after `seconds` and at least two rounds."""

    rounds: int
    seconds: float


class Lab:
    """The contenders around one base, each built when a part first needs it."""

    def __init__(self, base: Base, folder: Path, effort: Effort, *, concepts: int, sizes: list[int]) -> None:
        """`folder` is for everything that is written."""
        self.base, self.folder, self.effort = base, folder, effort
        self.concept_count, self.sizes = concepts, sizes
        self.precision: Precision = "float32" if base.dtype == torch.float32 else "half"
        self.generators = [OneStepGenerator(base)]
        """Eager, and then the best level of this machine, once a part has built it."""
        self.noun = noun_of(base)
        scene = base.manifest.scene_prompts[0]
        self.prompt, self.stock_prompt = scene.format(PLACEHOLDER), scene.format(self.noun)

    @cached_property
    def stock(self) -> StockPipeline:
        return StockPipeline(self.base, scheduler_of(self.base))

    @cached_property
    def stock_compiled(self) -> StockPipeline:
        pipeline = StockPipeline(self.base, scheduler_of(self.base))
        compile_networks(pipeline)
        return pipeline

    @property
    def best(self) -> OneStepGenerator:
        """The last generator that a part has built."""
        return self.generators[-1]

    @property
    def name_of_best(self) -> str:
        return f"ours, {self.best.level}"

    @cached_property
    def adapter(self) -> KeyValueAdapter:
        """Random changes of all projections, as large as a training's."""
        generator = torch.Generator().manual_seed(0)
        projections = pretrained_projections(self.base.student).to("cpu").requires_grad_(False)
        for parameter in projections.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        row = self.base.text.embedding_of(self.noun).cpu()
        return KeyValueAdapter(projections, nn.Parameter(row + 0.01 * torch.randn(row.shape, generator=generator)))

    def bundle_bytes(self, seed: int, *, base_sha256: str | None = None) -> bytes:
        """Return the file of a concept. Files of other seeds have other hashes and the same weights."""
        return write_bundle(
            self.adapter,
            method="opad",
            class_noun=self.noun,
            base=self.base.manifest.name,
            base_sha256=base_sha256 or self.base.manifest.sha256,
            config={},
            seed=seed,
        )

    @cached_property
    def concepts(self) -> list[Bundle]:
        """Concepts that share one adapter: at full size each has 102 MB, and no time depends on the values."""
        bundle = read_bundle(self.bundle_bytes(0))
        return [replace(bundle, id=f"{number:064x}") for number in range(self.concept_count)]

    @cached_property
    def loras(self) -> list[Lora]:
        """One exported concept, and copies of it with random changes."""
        files = export_bundle(read_bundle(self.bundle_bytes(0)), self.base)
        exported, generator = load(files["unet_lora.safetensors"]), torch.Generator().manual_seed(0)
        dtype = self.base.student.unet.dtype
        loras = [{name: x.to(dtype) for name, x in exported.items()}]
        for _ in range(LORAS - 1):
            noise = {name: x.std() * torch.randn(x.shape, generator=generator) for name, x in exported.items()}
            loras.append({name: (x + noise[name]).to(dtype) for name, x in exported.items()})
        return loras

    def requests(self, numbers: list[int], *, seed: int) -> list[ImageRequest]:
        """Return a request for an image of each concept."""
        return [ImageRequest(self.concepts[n], self.prompt, seed + place) for place, n in enumerate(numbers)]

    def stock_run(self, size: int) -> Run:
        return lambda number: self.stock.images([self.stock_prompt] * size, seeds_of(number, size))

    def compare(self, contenders: Mapping[str, Run]) -> dict[str, float]:
        """Return the median milliseconds of a call of each contender. They run in turns, so they share disturbances.

        The first round, in which functions are compiled and caches filled, is not counted.
        """
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for run in contenders.values():
            run(0)
        started = perf_counter()
        for number in range(1, self.effort.rounds + 1):
            for name, run in contenders.items():
                times[name].append(milliseconds(self.base, partial(run, number)))
            if number > 1 and perf_counter() - started > self.effort.seconds:
                break
        return {name: statistics.median(values) for name, values in times.items()}


def ours_eager(lab: Lab) -> Iterator[Figures]:
    """Compare the generator that launches each kernel with the stock pipeline."""
    yield from compared_with_stock(lab)


def ours_faster(lab: Lab) -> Iterator[Figures]:
    """Compare the generator at each further level of this machine with the stock pipeline. Later parts use the last."""
    for figures, generator in levels(lab.base, lab.folder / "compiled", sizes=tuple(lab.sizes)):
        yield {"what": f"ours, {generator.level}, made ready", **figures}
        lab.generators.append(generator)
        yield from compared_with_stock(lab)


def levels(base: Base, folder: Path, *, sizes: tuple[int, ...]) -> Iterator[tuple[Figures, OneStepGenerator]]:
    """Yield a generator at each level above eager, with the seconds that it took to get there.

    They are made ready at these batch sizes. The compiled functions are stored in `folder`, which is empty at first,
    and loaded from it, as in a second start.
    """
    on_gpu = base.device.type == "cuda"
    if on_gpu:
        generator = OneStepGenerator(base, sizes=sizes)
        seconds = record(generator, generator.modules, "captured")
        yield {"capture_s": seconds}, generator
    if compiler := compiler_for(base.device):
        generator, started = OneStepGenerator(base, sizes=sizes), perf_counter()
        with compilers_folders_kept():
            fill_compile_cache(generator, folder, compiler)
            filled = perf_counter()
            torch.compiler.reset()  # a second start has only what is on the disk
            functions = load_compile_cache(generator, folder, compiler)
        figures = {"compile_s": filled - started, "load_s": perf_counter() - filled}
        if on_gpu:
            figures["capture_s"] = record(generator, functions, "compiled")
        else:
            generator.use(functions, "compiled")
        yield figures, generator


def record(generator: OneStepGenerator, functions: Functions, level: Level) -> float:
    """Let the generator use the functions as CUDA graphs, and return the seconds that recording them took."""
    started = perf_counter()
    captured, steps = capture(generator, functions)
    for step in steps:
        step()
    generator.use(captured, level)
    return perf_counter() - started


@contextmanager
def compilers_folders_kept() -> Iterator[None]:
    """Restore the compilers' cache folders afterwards, so that the peers' compilations do not find ours."""
    before = {name: os.environ[name] for name in COMPILERS_FOLDERS}
    yield
    os.environ.update(before)


def compared_with_stock(lab: Lab) -> Iterator[Figures]:
    """Compare images of one concept, of another one with each call, and of mixed batches with the stock pipeline.

    Prompts are cached, as an engine has them after the first image. The stock pipeline encodes its prompt each time; a
    further row has it encoded before.
    """
    name = lab.name_of_best
    started = perf_counter()
    for request in lab.requests(list(range(lab.concept_count)), seed=0):
        lab.best.prepare(request)
    synchronize(lab.base.device)
    yield {"what": f"{name}: {lab.concept_count} concepts prepared", "seconds": perf_counter() - started}
    states = lab.stock.encode([lab.stock_prompt])
    for size in lab.sizes:
        contenders: dict[str, Run] = {
            STOCK: lab.stock_run(size),
            "stock, eager, text encoded before": partial(_stock_of_embedded, lab, states.expand(size, -1, -1), size),
            f"{name}, one concept": partial(_generate, lab, [0] * size),
            f"{name}, another each time": partial(_generate_another, lab, size),
        }
        if size > 1:
            contenders[f"{name}, {lab.concept_count} mixed"] = partial(_generate_mixed, lab, size)
        yield from figures_of(lab.compare(contenders), size, also={"of_one_concept": f"{name}, one concept"})


def stock_compiled(lab: Lab) -> Iterator[Figures]:
    """Compare the compiled stock pipeline with the eager one and with the engine's generator."""
    for size in lab.sizes:
        run: Run = lambda number, size=size: lab.stock_compiled.images(  # noqa: E731  # binds `size`
            [lab.stock_prompt] * size, seeds_of(number, size)
        )
        first = milliseconds(lab.base, lambda run=run: run(0)) / 1000
        yield {"what": f"stock, compiled: first call with batch {size}", "seconds": first}
        medians = lab.compare(
            {
                STOCK: lab.stock_run(size),
                "stock, compiled": run,
                f"{lab.name_of_best}, one concept": partial(_generate, lab, [0] * size),
            }
        )
        yield from figures_of(medians, size, also={"of_stock_compiled": "stock, compiled"})


def first_image(lab: Lab) -> Iterator[Figures]:
    """Compare the first image of a concept that is new to the process, from the bytes of its file."""
    files = [lab.bundle_bytes(seed) for seed in range(1, 6)]
    loras = [save(lora) for lora in lab.loras]
    pipeline = HotSwapped(lab.base, lab.loras[0])
    unseen = count(1000)

    def ours_of_bytes(number: int) -> None:
        bundle = replace(read_bundle(files[number % len(files)]), id=f"{next(unseen):064x}")
        lab.best.generate([ImageRequest(bundle, lab.prompt, number)])

    def lora_of_bytes(number: int) -> None:
        pipeline.swap(load(loras[number % LORAS]))
        pipeline.images([lab.stock_prompt], [number])

    medians = lab.compare(
        {
            STOCK: lab.stock_run(1),
            f"{lab.name_of_best}, first image of a bundle": ours_of_bytes,
            "LoRA file hot-swapped, first image": lora_of_bytes,
        }
    )
    yield {"what": "bundle", "megabytes": len(files[0]) / 1e6}
    yield {"what": "LoRA file", "megabytes": len(loras[0]) / 1e6}
    yield from figures_of(medians, 1)


def loras(lab: Lab) -> Iterator[Figures]:
    """Compare LoRAs that change with each image with ours. Hot-swap and selection serve one LoRA at a time."""
    swapped, selected = HotSwapped(lab.base, lab.loras[0]), Selected(lab.base, lab.loras)

    def swap(number: int) -> None:
        swapped.swap(lab.loras[number % LORAS])
        swapped.images([lab.stock_prompt], [number])

    def select(number: int) -> None:
        selected.select(number % LORAS)
        selected.images([lab.stock_prompt], [number])

    medians = lab.compare(
        {
            STOCK: lab.stock_run(1),
            "LoRA hot-swapped, another each time": swap,
            "LoRA not swapped": lambda number: swapped.images([lab.stock_prompt], [number]),
            "LoRA by set_adapters, another each time": select,
            f"{lab.name_of_best}, another each time": partial(_generate_another, lab, 1),
        }
    )
    yield from figures_of(medians, 1)


def peft(lab: Lab) -> Iterator[Figures]:
    """Compare PEFT's batches, in which each image has its own LoRA, with batches of the stock pipeline and of ours."""
    pipeline = MixedBatches(lab.base, lab.loras)

    def mixed(size: int, number: int) -> None:
        pipeline.select([(number + place) % LORAS for place in range(size)])
        pipeline.images([lab.stock_prompt] * size, seeds_of(number, size))

    for size in lab.sizes:
        medians = lab.compare(
            {
                STOCK: lab.stock_run(size),
                f"PEFT, {LORAS} LoRAs mixed": partial(mixed, size),
                f"{lab.name_of_best}, {lab.concept_count} mixed": partial(_generate_mixed, lab, size),
            }
        )
        yield from figures_of(medians, size)


def loras_compiled(lab: Lab) -> Iterator[Figures]:
    """Compare hot-swap in a compiled pipeline, for which diffusers has it."""
    swapped = HotSwapped(lab.base, lab.loras[0])
    swapped.compile()

    def swap(number: int) -> None:
        swapped.swap(lab.loras[number % LORAS])
        swapped.images([lab.stock_prompt], [number])

    first = milliseconds(lab.base, lambda: swap(0)) / 1000
    yield {"what": "LoRA hot-swapped, compiled: first call", "seconds": first}
    medians = lab.compare(
        {
            STOCK: lab.stock_run(1),
            "LoRA hot-swapped, compiled, another each time": swap,
            "LoRA not swapped, compiled": lambda number: swapped.images([lab.stock_prompt], [number]),
            f"{lab.name_of_best}, another each time": partial(_generate_another, lab, 1),
        }
    )
    yield from figures_of(medians, 1)


def figures_of(medians: Mapping[str, float], size: int, *, also: Mapping[str, str] | None = None) -> Iterator[Figures]:
    """Yield the figures of each contender of one comparison. `also` names further ratios of ours, and of what."""
    for what, median in medians.items():
        ratios = {"of_stock_eager": median / medians[STOCK]}
        if what.startswith("ours"):
            ratios |= {name: median / medians[other] for name, other in (also or {}).items()}
        yield {"what": what, "batch": size, "ms_per_image": median / size, **ratios}


def seeds_of(number: int, size: int) -> list[int]:
    return [number * size + place for place in range(size)]


def _stock_of_embedded(lab: Lab, states: torch.Tensor, size: int, number: int) -> None:
    lab.stock.images_of_embedded(states, seeds_of(number, size))


def _generate(lab: Lab, concepts: list[int], number: int) -> None:
    lab.best.generate(lab.requests(concepts, seed=number * len(concepts)))


def _generate_another(lab: Lab, size: int, number: int) -> None:
    _generate(lab, [number % lab.concept_count] * size, number)


def _generate_mixed(lab: Lab, size: int, number: int) -> None:
    _generate(lab, [(number * size + place) % lab.concept_count for place in range(size)], number)
