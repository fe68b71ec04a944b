"""`python -m bench.gpu`: measure images and training on a GPU, at the full size of SD-Turbo with random weights.

Nothing is downloaded; `--base` takes a base with its own weights instead. Each group of figures is printed as a line of
JSON when it is measured, and all of them as a Markdown table at the end. The most important parts come first. A part
that fails, or would begin after `--seconds`, says so, and the next part runs.

The service computes in float32. Parts with "half" in the name have the teacher in bfloat16 and the networks of the
student in float16. With "tf32" matrix products may round to TF32, as PyTorch's convolutions do by default.
"""

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bench.gpu_parts import image, training
from bench.part_runner import Figures, Results, has_failed, machine, run_parts, table
from opad_core import (
    Base,
    load_base,
)
from opad_core.__main__ import bases_folder
from opad_core.bases.full_size import FullSizeBase
from opad_core.bases.loading import device_named
from opad_core.bases.precision import Precision


@dataclass(frozen=True)
class Part:
    run: Callable[[Base], Iterator[Figures]]
    dtype: torch.dtype = torch.float32
    tf32: bool = False


HALF = torch.float16
PARTS = {
    "image-half": Part(image, HALF),
    "image": Part(image),
    "image-tf32": Part(image, tf32=True),
    "train-default": Part(partial(training, name="default")),
    "train-default-tf32": Part(partial(training, name="default"), tf32=True),
    "train-paper": Part(partial(training, name="paper")),
    "train-crop-tf32": Part(partial(training, name="crop"), tf32=True),
    "train-default-half": Part(partial(training, name="default"), HALF, tf32=True),
    "train-crop-half": Part(partial(training, name="crop"), HALF, tf32=True),
    "train-paper-tf32": Part(partial(training, name="paper"), tf32=True),
    "train-crop": Part(partial(training, name="crop")),
}
"""The most important first; parts of one precision are together, because a change rebuilds the networks."""


class Bases:
    """Holds one base at a time, so that memory figures belong to the part that runs."""

    def __init__(self, name: str | None, device: torch.device, folder: Path, *, resolution: int) -> None:
        """A name of None means random weights, whose stand-in tokenizer is written to `folder`."""
        self._name, self.device, self._folder, self._resolution = name, device, folder, resolution
        self._held: Base | None = None

    def at(self, dtype: torch.dtype) -> Base:
        if self._held is None or self._held.dtype != dtype:
            self._held = None
            self.sweep()
            if self._name is None:
                self._held = FullSizeBase(self._folder, self.device, resolution=self._resolution, dtype=dtype)
            else:
                precision: Precision = "half" if dtype == HALF else "float32"
                self._held = load_base(
                    self._name, bases=bases_folder(), device=str(self.device), precision=precision
                )  # fmt: skip
        return self._held

    def sweep(self) -> None:
        """Free memory that is no longer used."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def measure(names: list[str], bases: Bases, *, seconds: float, late: float) -> Results:
    """Run the parts with the precision of each, as `run_parts` does."""

    def run(part: Part) -> Iterator[Figures]:
        torch.set_float32_matmul_precision("high" if part.tf32 else "highest")
        bases.sweep()
        yield from part.run(bases.at(part.dtype))

    try:
        return run_parts(
            {name: partial(run, PARTS[name]) for name in names},
            about=machine(bases.device),
            seconds=seconds,
            late=late,
        )
    finally:
        torch.set_float32_matmul_precision("highest")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART",
                        help=f"any of {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=200, help="no part begins later than this")
    parser.add_argument(
        "--late", type=float, default=30, help="a part that still runs this many seconds later is stopped"
    )
    parser.add_argument("--base", help="a base's name or folder; default: SD-Turbo's networks with random weights")
    parser.add_argument("--resolution", type=int, default=512, help="pixels of random weights, a multiple of 64")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments = parser.parse_args(argv)
    device = device_named(arguments.device)
    if arguments.device == "auto" and device.type == "cpu":
        parser.error("PyTorch finds no GPU; use --device cpu to measure the CPU")
    with tempfile.TemporaryDirectory() as folder:
        bases = Bases(arguments.base, device, Path(folder), resolution=arguments.resolution)
        results = measure(arguments.parts, bases, seconds=arguments.seconds, late=arguments.late)
    print("\n" + table(results))
    return 1 if has_failed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
