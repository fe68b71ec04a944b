"""`python -m bench.learning`: measure how long a concept takes to learn, and where a job's time goes.

On a GPU the default is SD-Turbo's networks with random weights: nothing is downloaded, and speed does not depend on the
values. On a CPU it is nano, which learns one of the examples. Every iteration is measured as trainings run it, and
beside it as the plain loop, which is the same code without compilation and CUDA graphs. Compilation time is a figure of
its own: "cold" with an empty cache, "warm" if an earlier part or `--compile-cache` filled it.

Each figure is printed as a line of JSON when it is measured, and all of them as Markdown tables at the end. The most
important parts come first. A part that fails, or would begin after `--seconds`, says so, and the next part runs.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bench.learning_parts import COMPILED, PLAIN, Effort, Lab, iterations, job, limited, matrix_rate
from bench.part_runner import Figures, Results, has_failed, machine, run_parts, table, wide_table
from opad_core.bases.loading import device_named
from opad_core.bases.precision import Precision


@dataclass(frozen=True)
class Part:
    run: Callable[[Lab, Precision], Iterator[Figures]]
    preset: str | None = None
    precision: Precision | None = None
    """None: half on a GPU, float32 on a CPU, unless `--precision` says otherwise."""
    by_default: bool = True
    needs_gpu: bool = False


PARTS = {
    "matrix-rate": Part(matrix_rate),
    "default": Part(partial(iterations, preset_name="default"), "default"),
    "paper": Part(partial(iterations, preset_name="paper"), "paper"),
    "job-default": Part(partial(job, preset_name="default", way=COMPILED)),
    "job-default-plain": Part(partial(job, preset_name="default", way=PLAIN), needs_gpu=True),
    "paper-float32": Part(partial(iterations, preset_name="paper"), "paper", "float32", needs_gpu=True),
    "job-paper": Part(partial(job, preset_name="paper", way=COMPILED), by_default=False),
    **{
        f"default-{gib}-gb": Part(
            partial(limited, preset_name="default", gib=gib), by_default=False, needs_gpu=True
        )
        for gib in (80, 24, 16)
    },
}  # fmt: skip
"""The most important first."""
ITERATIONS = {
    "s/iteration": "iteration_s",
    "ms per TFLOP": "ms_per_tflop",
    "of the matrix rate": "of_matrix_rate",
    "peak GiB": "peak_gib",
    "reserved GiB": "reserved_gib",
    "start s": "start_s",
    "of it compilation s": "compilation_s",
    "compile cache": "compile_cache",
}
JOBS = {"count": "count", "s each": "each_s", "s in a job": "job_s"}
"""The columns of two tables: their titles and the names of the figures."""
ITERATIONS_ON = {"cuda": 30, "cpu": 10}
JOB_ITERATIONS_ON = {"cuda": 50}


def tables(results: Results) -> str:
    """Return the ways to run an iteration, the parts of the jobs, and the other figures as three Markdown tables."""
    others = [(part, figures) for part, figures in results if not figures.keys() & {"iteration_s", "job_s"}]
    return "\n\n".join(
        [
            wide_table(results, ITERATIONS, having="iteration_s"),
            wide_table(results, JOBS, having="job_s"),
            table(others),
        ]
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.learning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), metavar="PART",
                        help=f"any of {', '.join(PARTS)} (default: all but job-paper and memory limits)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=540, help="no part begins later than this (default 540)")
    parser.add_argument(
        "--late", type=float, default=300, help="a part that still runs this many seconds later is stopped"
    )
    parser.add_argument("--base", help="a base's name or folder, or `random` for SD-Turbo's networks with random "
                                       "weights; default: random on a GPU, nano on a CPU")  # fmt: skip
    parser.add_argument("--concept", type=Path, default=Path("examples/striped_mug"), metavar="FOLDER",
                        help="photos and class.txt of the concept; random weights learn noise instead")  # fmt: skip
    parser.add_argument("--iterations", type=int, metavar="N",
                        help="iterations that are timed for each way (default: 30 on a GPU, 10 on a CPU)")  # fmt: skip
    parser.add_argument("--job-iterations", type=int, metavar="N",
                        help="iterations of each stage that a job runs; the rest of its time is computed "
                             "(default: 50 on a GPU, all on a CPU)")  # fmt: skip
    parser.add_argument("--resolution", type=int, default=512, help="pixels of random weights, a multiple of 64")
    parser.add_argument("--precision", choices=["auto", "float32", "half"], default="auto",
                        help="of parts without a precision in their name; auto is half on a GPU")  # fmt: skip
    parser.add_argument("--compile-cache", type=Path, metavar="FOLDER",
                        help="folder of compiled networks that is kept; default: a new one")  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments = parser.parse_args(argv)
    device = device_named(arguments.device)
    gpu = device.type == "cuda"
    chosen = arguments.parts or [
        name for name, part in PARTS.items() if part.by_default and (gpu or not part.needs_gpu)
    ]
    if not gpu and (without := [name for name in chosen if PARTS[name].needs_gpu]):
        parser.error(f"{', '.join(without)} needs a GPU; leave it out of --parts")
    auto: Precision = "half" if gpu else "float32"
    precision: Precision = auto if arguments.precision == "auto" else arguments.precision
    base = arguments.base or ("random" if gpu else "nano")
    effort = Effort(
        iterations=arguments.iterations or ITERATIONS_ON[device.type],
        job_iterations=arguments.job_iterations or JOB_ITERATIONS_ON.get(device.type),
    )
    with tempfile.TemporaryDirectory(prefix="opad-learning-") as name:
        lab = Lab(
            None if base == "random" else base, device, Path(name), effort, concept=arguments.concept,
            resolution=arguments.resolution, compile_cache=arguments.compile_cache or Path(name) / "compiled",
        )  # fmt: skip
        lab.count_operations({preset for name in chosen if (preset := PARTS[name].preset) is not None})
        try:
            results = run_parts(
                {part: partial(PARTS[part].run, lab, PARTS[part].precision or precision) for part in chosen},
                about=machine(device) | {"base": base, "precision": precision, "threads": torch.get_num_threads()},
                seconds=arguments.seconds,
                late=arguments.late,
            )
        finally:
            lab.close()
    print(f"\n{tables(results)}")
    return 1 if has_failed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
