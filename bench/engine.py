"""`python -m bench.engine`: compare the engine with other ways to serve many concepts in one step.

All contenders run in one process on the same weights, and those of a comparison run in turns, so that a ratio compares
times of the same minutes. Every comparison contains the eager stock pipeline of diffusers. Each figure is printed as a
line of JSON when it is measured, and all of them as Markdown tables at the end. The most important parts come first. A
part that fails, or would begin after `--seconds`, says so, and the next part runs.

Nothing is downloaded. The default is SD-Turbo's networks with random weights: speed does not depend on the values.
`--base nano` takes minutes on two CPU cores; the full size needs `--resolution 128` there, and `--parts`.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from diffusers.utils import logging

from bench.chosen_base import chosen_base
from bench.engine_parts import (
    COMPILERS_FOLDERS,
    Effort,
    Lab,
    first_image,
    loras,
    loras_compiled,
    ours_eager,
    ours_faster,
    peft,
    stock_compiled,
)
from bench.engine_service import http, start
from bench.part_runner import Figures, Results, has_failed, machine, run_parts, table, wide_table
from opad_core.bases.loading import device_named
from opad_core.generation.generator import MAX_BATCH

PARTS: dict[str, Callable[[Lab], Iterator[Figures]]] = {
    "ours-eager": ours_eager,
    "ours": ours_faster,
    "stock-compiled": stock_compiled,
    "first-image": first_image,
    "lora": loras,
    "peft": peft,
    "start": start,
    "http": http,
    "lora-compiled": loras_compiled,
}
"""The most important first. Parts after "ours" compare with the last level that it built, else with the eager one."""
TIMINGS = {
    "batch": "batch",
    "ms per image": "ms_per_image",
    "of stock eager": "of_stock_eager",
    "of one concept": "of_one_concept",
    "of stock compiled": "of_stock_compiled",
}
LOADS = {
    "offered/s": "offered_per_s",
    "images/s": "images_per_s",
    "p50 ms": "p50_ms",
    "p99 ms": "p99_ms",
    "p99/p50": "p99_over_p50",
    "of p50 outside the engine, ms": "p50_outside_the_engine_ms",
    "refused": "refused",
}
"""The columns of two tables: their titles and the names of the figures."""


def tables(results: Results) -> str:
    """Return the times per image, the loads, and the other figures as three Markdown tables."""
    wide = [wide_table(results, TIMINGS, having="ms_per_image"), wide_table(results, LOADS, having="p99_ms")]
    others = [
        (f"{part}: {figures['what']}", {key: value for key, value in figures.items() if key != "what"})
        if "what" in figures
        else (part, figures)
        for part, figures in results
        if not figures.keys() & {"ms_per_image", "p99_ms"}
    ]
    return "\n\n".join([*wide, table(others)])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART",
                        help=f"any of {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=540, help="no part begins later than this")
    parser.add_argument(
        "--late", type=float, default=60, help="a part that still runs this many seconds later is stopped"
    )
    parser.add_argument("--rounds", type=int, default=30, help="rounds of a comparison, at most")
    parser.add_argument("--comparison-seconds", type=float, default=15, metavar="SECONDS",
                        help="a comparison ends after this time and at least two rounds")  # fmt: skip
    parser.add_argument("--batches", type=int, nargs="+", default=[1, MAX_BATCH], metavar="SIZE",
                        help="sizes of batches (default 1 and 8)")  # fmt: skip
    parser.add_argument("--concepts", type=int, default=64, help="concepts that batches mix (default 64)")
    parser.add_argument("--base", help="a base's name or folder; default: SD-Turbo's networks with random weights")
    parser.add_argument("--resolution", type=int, default=512, help="pixels of random weights, a multiple of 64")
    parser.add_argument("--precision", choices=["auto", "float32", "half"], default="auto",
                        help="of all contenders; auto is half on a GPU, else float32")  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments = parser.parse_args(argv)
    if not 1 <= min(arguments.batches) <= max(arguments.batches) <= MAX_BATCH:
        parser.error(f"--batches must be from 1 to {MAX_BATCH}, got {' '.join(map(str, arguments.batches))}")
    if arguments.concepts < MAX_BATCH:
        parser.error(f"--concepts is {arguments.concepts}; use at least {MAX_BATCH}, the images of a mixed batch")
    device = device_named(arguments.device)
    logging.set_verbosity_error()  # diffusers warns at each swap that the LoRA has no text encoder
    half = arguments.precision == "half" or (arguments.precision == "auto" and device.type == "cuda")
    with tempfile.TemporaryDirectory(prefix="opad-engine-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root, PostgreSQL's account must be able to enter it
        for number, variable in enumerate(COMPILERS_FOLDERS):
            os.environ[variable] = str(folder / f"compiler-{number}")  # empty, so every compilation is a cold one
        torch.backends.cudnn.benchmark = True  # the peers, too, get the fastest kernels of their convolutions
        base = chosen_base(
            arguments.base,
            device,
            folder / "base",
            resolution=arguments.resolution,
            precision="half" if half else "float32",
        )
        effort = Effort(arguments.rounds, arguments.comparison_seconds)
        lab = Lab(base, folder, effort, concepts=arguments.concepts, sizes=arguments.batches)
        about = machine(device) | {
            "base": base.manifest.name,
            "resolution": base.manifest.resolution,
            "precision": lab.precision,
            "threads": torch.get_num_threads(),
        }
        results = run_parts(
            {part: partial(PARTS[part], lab) for part in arguments.parts},
            about=about,
            seconds=arguments.seconds,
            late=arguments.late,
        )
    print(f"\n{tables(results)}")
    return 1 if has_failed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
