"""Count the peak memory of a training at full size, by running the training code on tensors without data.

PyTorch's own `MemTracker` cannot do this, because it accepts no frozen parameters.
"""

import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

from opad_core.bases.full_size import FullSizeBase
from opad_core.bases.precision import dtype_of
from opad_core.generation.generator import MAX_BATCH
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.train import new_training
from opad_core.training.config import override
from opad_core.training.loop import Training
from opad_core.training.memory import COUNTED_RESOLUTION, GIB, Rung, save_memory

BLOCK = 512
"""PyTorch's allocator rounds every size up to a multiple of this many bytes."""


HEADER = (
    "| rung | networks and state | iteration | generating | peak of an iteration | free memory needed |\n"
    "|---|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class Counted:
    """The memory of a training in GiB, beside the figures of `training.memory.Rung`."""

    networks_gib: float
    """Networks, and the state of two trainings: the captured one is tried against the plain loop's."""
    iteration_gib: float
    """Activations of an iteration, with the config's batch size."""
    generation_gib: float

    @property
    def peak_gib(self) -> float:
        """The peak of an iteration."""
        return self.networks_gib + self.iteration_gib

    def line(self, rung: Rung, *, batch_size: int) -> str:
        """Return a row of a Markdown table under HEADER. The free memory needed is what a trainer requires."""
        counted = (self.networks_gib, self.iteration_gib, self.generation_gib, self.peak_gib)
        figures = [f"{gib:.1f} GiB" for gib in (*counted, rung.needed_gib(batch_size=batch_size))]
        return f"| {rung.number}: {rung.summary} | {' | '.join(figures)} |"


def count_memory(config: OpadConfig, rung: Rung, *, resolution: int = COUNTED_RESOLUTION) -> Counted:
    """Count the memory of a training on SD-Turbo's networks that saves memory as the rung says."""
    device = torch.device("meta")
    config = override(config, {"augmentation_cache": min(config.augmentation_cache, config.batch_size)})
    memory = AllocatedMemory(device)
    activations = []

    @contextmanager
    def count(part: str) -> Iterator[None]:
        before = memory.peak = memory.now
        yield
        activations.append(memory.peak - before)

    with tempfile.TemporaryDirectory() as folder, _fused_attention(), memory:
        base = _Unscaled(Path(folder), device, resolution=resolution, dtype=dtype_of(rung.precision))
        save_memory(base, rung)
        references = [Image.new("RGB", (resolution, resolution))] * 3
        training = new_training(base, references, "dog", config, seed=0, hook=count)
        training.method.prepare()
        training.iterate()  # afterwards there are gradients and AdamW's state
        networks = memory.now + _state(training)
        with count("generation"):
            _generate(base)
    *iteration, generation = activations
    return Counted(networks / GIB, max(iteration) / GIB, generation / GIB)


class AllocatedMemory(TorchDispatchMode):
    """Counts the bytes of all tensors on a device while it is active, and their peak.

    Tensors that existed before are counted when an operation first returns a view of them. Memory that a kernel uses
    inside is not counted, except that of a sort on CUDA, which is the largest.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as PyTorch wrote it
        self._device = device
        self._sizes = WeakIdKeyDictionary()
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_iter(results):
            if isinstance(result, Tensor) and result.device.type == self._device.type:
                self._add(result.untyped_storage())
        is_sort = func is torch.ops.aten.sort.default and self._device.type != "cpu"
        self.peak = max(self.peak, self.now + (_inside_sort(*results) if is_sort else 0))
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._sizes:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self._sizes[storage] = size
            self.now += size
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def _inside_sort(values: Tensor, indices: Tensor) -> int:
    """Return the bytes that CUDA's segmented radix sort uses: second buffers of both, and the unsorted indices."""
    return values.nbytes + 2 * indices.nbytes


class _Unscaled(FullSizeBase):
    """Without a loss scale, because tensors without data cannot say whether they overflowed."""

    @property
    def loss_scale_device(self) -> None:
        return None


def _state(training: Training) -> int:
    """Return the bytes of the learned parameters, their gradients, AdamW's state and the average."""
    state: list[Tensor] = list(training.average.parameters())
    for optimizer in training.method.optimizers.values():
        state += [*optimizer.tensors().values(), *(p.grad for p in optimizer.parameters if p.grad is not None)]
    return sum(tensor.nbytes for tensor in state)


@torch.no_grad()
def _generate(base: FullSizeBase) -> None:
    """Generate a full batch of images from keys and values."""
    eps = torch.empty(MAX_BATCH, *base.latent_shape, device=base.device)
    text_states = torch.empty(MAX_BATCH, *base.text.encode([""], [""], [None]).shape[1:], device=base.device)
    base.decode(base.student.one_step(eps, base.student.keys_values(text_states)))


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Let attention without data use the kernel that a GPU uses, which keeps no attention matrix.

    PyTorch would choose the other one. A checkpoint's second forward pass runs outside of every mode for functions, so
    the function itself is replaced.
    """
    original = F.scaled_dot_product_attention

    def fused(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, **options: Any,
    ) -> Tensor:  # fmt: skip
        if query.device.type != "meta":
            return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
        attention = torch.ops.aten._scaled_dot_product_efficient_attention
        attended: Tensor = attention(query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale)[0]
        return attended

    F.scaled_dot_product_attention = fused  # type: ignore[assignment]  # `options` are the arguments that are missing
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original
