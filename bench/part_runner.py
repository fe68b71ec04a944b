"""Run the parts of a benchmark, print the figures of each one as they come, and make tables of them."""

import json
import platform
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from types import FrameType
from typing import Any

import diffusers
import torch
import transformers

GIB = 2**30

Figures = dict[str, Any]
Results = list[tuple[str, Figures]]
"""The figures in the order in which they were measured, each with the name of its part."""


class TimeUp(BaseException):
    """Not an Exception, so that code that catches all exceptions does not catch it."""


def run_parts(
    parts: Mapping[str, Callable[[], Iterator[Figures]]], *, about: Figures, seconds: float, late: float
) -> Results:
    """Run the parts, print their figures as they come, and return them. A part that fails has an error among them.

    No part begins after `seconds`. A part that is still running `late` seconds later is stopped. `about` describes the
    machine and is printed first.
    """
    started = perf_counter()
    results: Results = []

    def tell(part: str, figures: Figures) -> None:
        rounded = {key: float(f"{x:.4g}") if isinstance(x, float) else x for key, x in figures.items()}
        results.append((part, rounded))
        print(json.dumps({"part": part, "at_s": round(perf_counter() - started, 1), **rounded}), flush=True)

    def time_is_up(number: int, frame: FrameType | None) -> None:
        raise TimeUp(f"still running {late:.0f} s after its time")

    tell("machine", about)
    handler = signal.signal(signal.SIGALRM, time_is_up)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds + late)
    try:
        for name, part in parts.items():
            if perf_counter() - started > seconds:
                tell(name, {"skipped": f"{seconds:.0f} s are over"})
                continue
            try:
                for figures in part():
                    tell(name, figures)
            except (Exception, TimeUp) as error:  # noqa: BLE001  # the next part may succeed
                traceback.print_exc()
                tell(name, {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)
    return results


def machine(device: torch.device) -> Figures:
    """Return the versions of the libraries, and the device's name and memory."""
    facts: Figures = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"gpu": properties.name, "gib": properties.total_memory / GIB, "cuda": str(torch.version.cuda)}
    return facts


def table(results: Results) -> str:
    """Return a Markdown table with a row for each figure. A figure that a part told twice has its last value."""
    rows = dict.fromkeys((part, key) for part, figures in results for key in figures)
    latest = {(part, key): value for part, figures in results for key, value in figures.items()}
    lines = [f"| {part} | {key} | {latest[part, key]} |" for part, key in rows]
    return "\n".join(["| part | figure | value |", "|---|---|---:|", *lines])


def wide_table(results: Results, columns: Mapping[str, str], *, having: str) -> str:
    """Return a Markdown table with a row for all figures that were told together and have `having` among them."""
    lines = [f"| part | what | {' | '.join(columns)} |", f"|---|---|{'---:|' * len(columns)}"]
    for part, figures in results:
        if having in figures:
            cells = [part, figures["what"], *(str(figures.get(name, "")) for name in columns.values())]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def has_failed(results: Results) -> bool:
    return any("error" in figures for _, figures in results)
