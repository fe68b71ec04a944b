"""Replay the iterations of a method as CUDA graphs.

A GPU waits for the host in most of an iteration: an H100 needed 275 ms for its kernels and 660 ms in all, because
14,000 operators were started one by one. A graph starts them at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from opad_core.generation.fixed_sizes import fastest_convolutions
from opad_core.training.method import Hook, Inputs, Method, no_hook

WARM_UP = 3
"""Iterations of a kind that run before it is captured. They compile, select kernels and create optimizer states."""

Kind = tuple[tuple[str, torch.Size, torch.dtype], ...]


@dataclass(frozen=True)
class _Graph:
    inputs: Inputs
    losses: dict[str, Tensor]
    values: Tensor
    """The losses as one tensor, [n]."""
    graph: torch.cuda.CUDAGraph


class CapturedLearning:
    """`Method.learn` on a GPU, as one CUDA graph for each kind of inputs. Parts of an iteration are not reported.

    Inputs of equal names, shapes and dtypes are of one kind. The first iterations of a kind run without a graph, as
    iterations like any other, so a graph changes nothing but the time.
    """

    def __init__(self, method: Method, device: torch.device) -> None:
        self._method, self._device = method, device
        self._stream = torch.cuda.Stream(device)
        """The stream of warm-up and capture. A gradient is accumulated on the stream that first used its parameter."""
        self._seen: dict[Kind, int] = {}
        self._graphs: dict[Kind, _Graph] = {}

    def __call__(self, inputs: Inputs, part: Hook) -> dict[str, Tensor]:
        """Run one iteration on inputs from the host, and return its losses. Waits for nothing but a capture."""
        kind = kind_of(inputs)
        self._seen[kind] = self._seen.get(kind, 0) + 1
        with torch.cuda.device(self._device):
            pinned = {name: x if x.is_cuda else x.pin_memory() for name, x in inputs.items()}
            if self._seen[kind] <= WARM_UP:
                return self._warmed_up(pinned)
            if kind not in self._graphs:
                self._graphs[kind] = self._captured(pinned)
            graph = self._graphs[kind]
            for name, static in graph.inputs.items():
                static.copy_(pinned[name], non_blocking=True)
            graph.graph.replay()
            return dict(zip(graph.losses, graph.values.clone().unbind(), strict=True))

    def _warmed_up(self, pinned: Inputs) -> dict[str, Tensor]:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), fastest_convolutions():
            on_device = {name: x.to(self._device, non_blocking=True) for name, x in pinned.items()}
            losses = self._method.learn(on_device, no_hook)
        current.wait_stream(self._stream)
        for loss in losses.values():
            loss.record_stream(current)
        return losses

    def _captured(self, pinned: Inputs) -> _Graph:
        """Capture an iteration without running it."""
        inputs = {name: x.to(self._device) for name, x in pinned.items()}
        pool = next((graph.graph.pool() for graph in self._graphs.values()), None)  # graphs never run at once
        graph = torch.cuda.CUDAGraph()
        # Other threads use the GPU, too: only what this one does during the capture may fail it.
        with (
            fastest_convolutions(),
            torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            losses = self._method.learn(inputs, no_hook)
            values = torch.stack([loss.float() for loss in losses.values()])
        return _Graph(inputs, losses, values, graph)


def kind_of(inputs: Inputs) -> Kind:
    """Return what decides the computation: names, shapes and dtypes."""
    return tuple((name, x.shape, x.dtype) for name, x in sorted(inputs.items()))
