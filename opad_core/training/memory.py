"""Fit a training into the memory of a GPU: a ladder of rungs, each of which needs less memory and more time.

| rung | networks in  | UNets and decoder                | feature networks, decoding of several images          |
|-----:|--------------|----------------------------------|-------------------------------------------------------|
| 0    | float32      | keep their activations           | networks keep their activations, images in one batch  |
| 1    | half         | keep their activations           | networks keep their activations, images in one batch  |
| 2    | half         | compute them again (checkpoints) | networks keep their activations, images in one batch  |
| 3    | half         | compute them again (checkpoints) | one network and one image after another               |

If the user chose float32, rungs 2 and 3 are in float32, too. The memory was counted by `python -m opad_core memory`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL

from opad_core.bases.loading import Base
from opad_core.bases.precision import Precision, PrecisionSetting, precision_for
from opad_core.errors import NotEnoughMemoryError
from opad_core.networks.checkpointing import checkpointed

GIB = 2**30
COUNTED_RESOLUTION = 512
"""Pixels of the images whose memory was counted."""
UNCOUNTED = 1.05
"""Factor on the counted memory, for memory inside kernels. Four trainings on an H200 peaked 0.8-3.5 % above it."""
RESERVE_GIB = 1.0
"""For kernels that CUDA loads later, the workspaces of cuBLAS, and gaps between the allocator's blocks."""


@dataclass(frozen=True)
class Rung:
    """A way to save memory, and what a training on SD-Turbo's networks needs with it."""

    number: int
    precision: Precision
    checkpoints_networks: bool
    """Whether the UNets and the decoder compute their activations again in the backward pass."""
    one_after_another: bool
    """Whether feature networks keep activations one at a time, and images are decoded one at a time."""
    networks_gib: float
    """Counted: networks, and what two trainings learn, with gradients, averages and AdamW's state.

    The plain loop's training is there while the captured one is tried."""
    image_gib: float
    """Counted: activations of an iteration, for each image of the batch."""
    generation_gib: float
    """Counted: activations of a generated batch. A captured iteration keeps its memory, so both are needed at once."""

    def needed_gib(self, *, batch_size: int, resolution: int = COUNTED_RESOLUTION) -> float:
        """Return the free memory that a training needs, in GiB. Activations grow with the number of pixels."""
        pixels = (resolution / COUNTED_RESOLUTION) ** 2
        activations = batch_size * self.image_gib + self.generation_gib
        return UNCOUNTED * (self.networks_gib + pixels * activations) + RESERVE_GIB

    @property
    def summary(self) -> str:
        """Say what the rung does."""
        savings = ["float32" if self.precision == "float32" else "half precision"]
        if self.checkpoints_networks:
            savings.append("gradient checkpointing")
        if self.one_after_another:
            savings.append("one feature network after another")
        return ", ".join(savings)


FLOAT32 = (
    Rung(0, "float32", False, False, networks_gib=13.4, image_gib=10.2, generation_gib=6.0),
    Rung(2, "float32", True, False, networks_gib=13.4, image_gib=4.4, generation_gib=6.0),
    Rung(3, "float32", True, True, networks_gib=13.4, image_gib=2.3, generation_gib=1.1),
)
HALF = (
    Rung(1, "half", False, False, networks_gib=7.6, image_gib=5.8, generation_gib=3.0),
    Rung(2, "half", True, False, networks_gib=7.6, image_gib=2.8, generation_gib=3.0),
    Rung(3, "half", True, True, networks_gib=7.6, image_gib=1.8, generation_gib=0.6),
)


def ladder(setting: PrecisionSetting, *, device: torch.device, preset: str) -> Sequence[Rung]:
    """Return the rungs that a precision setting allows, the fastest first."""
    if precision_for("training", setting, device=device, preset=preset) == "half":
        return HALF
    return (FLOAT32[0], *HALF) if setting == "auto" else FLOAT32


def choose(free_gib: float, rungs: Sequence[Rung], *, batch_size: int, resolution: int = COUNTED_RESOLUTION) -> Rung:
    """Return the first rung that fits into free memory, in GiB. Raises NotEnoughMemoryError if none does."""
    needed = [rung.needed_gib(batch_size=batch_size, resolution=resolution) for rung in rungs]
    for rung, needs in zip(rungs, needed, strict=True):
        if needs <= free_gib:
            return rung
    remedies = ["stop other programs that use the GPU", "use a larger one"]
    if rungs[-1].precision == "float32":
        remedies.append("learn in half precision")
    if batch_size > 1:
        remedies.append(f"choose a batch_size below {batch_size}")
    raise NotEnoughMemoryError(
        f"learning with batch_size={batch_size} needs {needed[-1]:.1f} GiB of free GPU memory, and {free_gib:.1f} GiB "
        f"are free; {', '.join(remedies[:-1])} or {remedies[-1]}"
    )


def rung_for(*, resolution: int, batch_size: int, preset: str, setting: PrecisionSetting, device: torch.device) -> Rung:
    """Return the first rung that fits into the free memory of a device. `resolution` is the base's, in pixels.

    It is always the first one on a CPU, and for a base of fewer than 512 pixels, whose networks were not counted and
    are much smaller. Raises NotEnoughMemoryError, which says in a sentence what is needed, what is free and what to do.
    """
    rungs = ladder(setting, device=device, preset=preset)
    if device.type != "cuda" or resolution < COUNTED_RESOLUTION:
        return rungs[0]
    return choose(free_memory(device) / GIB, rungs, batch_size=batch_size, resolution=resolution)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process may still allocate on a GPU."""
    free, total = torch.cuda.mem_get_info(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total - torch.cuda.memory_reserved(device)
    return min(free, int(allowed))


def save_memory(base: Base, rung: Rung) -> None:
    """Let the base's networks save memory as the rung says. Loads the networks that do."""
    if rung.checkpoints_networks:
        for unet in (base.teacher.unet, base.student.unet):
            unet.enable_gradient_checkpointing(checkpointed)
        if isinstance(base.vae, AutoencoderKL):  # the other autoencoders cannot do either, and are much smaller
            base.vae.enable_gradient_checkpointing(checkpointed)
            if rung.one_after_another:
                base.vae.enable_slicing()
    if rung.one_after_another:
        for backbone in base.backbones:
            backbone.is_checkpointed = True
