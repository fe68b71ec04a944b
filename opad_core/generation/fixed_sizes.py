"""Run a function of tensors at a few batch sizes, on a GPU each from a CUDA graph.

A GPU spends most of the time of one image on starting kernels: an H100 took 87 ms in half precision, 35.5 when the same
kernels were replayed as one graph, and 12.5 when they were compiled before.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

SIZES = (1, 2, 4, 8)
_TIMED = 5
"""Runs whose fastest counts as the time of a size."""


@dataclass(frozen=True)
class _Recording:
    inputs: tuple[Tensor, ...]
    output: Tensor
    run: Callable[[], Any]
    """Compute `output` from `inputs`, in place."""
    seconds: float


class FixedSizes:
    """A function of tensors with a batch dimension that is called only at the sizes it was recorded at.

    A batch of another size is split and padded for least total time, from times measured while recording.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._recordings: dict[int, _Recording] = {}
        self._pool: Any = None

    @property
    def seconds(self) -> dict[int, float]:
        """The time of one call at each recorded size."""
        return {size: recording.seconds for size, recording in self._recordings.items()}

    @torch.no_grad()
    def record(self, *examples: Tensor) -> None:
        """Record the size of the examples, which all have the same length.

        On a GPU, call it from the thread that will call the function. Record the largest size first: the others then
        use its memory.
        """
        inputs = tuple(example.clone() for example in examples)
        run: Callable[[], Any]
        if inputs[0].device.type == "cuda":
            output, run = self._captured(inputs)
        else:
            output = self._function(*inputs)

            def run() -> None:
                output.copy_(self._function(*inputs))

        self._recordings[len(inputs[0])] = _Recording(inputs, output, run, _fastest(run, inputs[0].device))

    def _captured(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Callable[[], Any]]:
        """Capture a call. Return the output, and what computes it again from the inputs, in place."""
        with torch.cuda.device(inputs[0].device), fastest_convolutions():  # a capture is one of the current device
            self._function(*inputs)  # compiles and selects kernels, which a capture must not do
            graph = torch.cuda.CUDAGraph()
            # other threads use the GPU too: only what this one does during the capture may fail it
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = self._function(*inputs)
        self._pool = graph.pool()
        return output, graph.replay

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the function's output for a batch of any size."""
        outputs, at = [], 0
        for size in split(len(inputs[0]), self.seconds):
            rows = min(size, len(inputs[0]) - at)
            recording = self._recordings[size]
            for static, given in zip(recording.inputs, inputs, strict=True):
                static[:rows].copy_(given[at : at + rows])
            recording.run()
            outputs.append(recording.output[:rows].clone())
            at += rows
        return torch.cat(outputs)

    def clear(self) -> None:
        """Overwrite what the last calls left, which may belong to an erased concept, with zeros."""
        for recording in self._recordings.values():
            for static in (*recording.inputs, recording.output):
                static.zero_()


def split(count: int, seconds: dict[int, float]) -> Sequence[int]:
    """Return the sizes that process `count` rows in the least total time, the largest first.

    The sum of the sizes is at least `count`. `seconds` has the time of each size.
    """

    @cache
    def best(rest: int) -> tuple[float, tuple[int, ...]]:
        if rest <= 0:
            return 0.0, ()
        options = []
        for size, cost in seconds.items():
            total, sizes = best(rest - size)
            options.append((cost + total, (size, *sizes)))
        return min(options, key=lambda option: (option[0], len(option[1])))

    return sorted(best(count)[1], reverse=True)


@contextmanager
def fastest_convolutions() -> Iterator[None]:
    """Let cuDNN measure its kernels for each new shape and use the fastest. It remembers them for this thread only."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _fastest(run: Callable[[], Any], device: torch.device) -> float:
    seconds = []
    for _ in range(_TIMED):
        before = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - before)
    return min(seconds)
