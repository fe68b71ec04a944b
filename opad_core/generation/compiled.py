"""Compiled networks, in a cache on disk that survives restarts.

Each base, device and version of the code has a folder of its own, so a change of any of them compiles anew. On a GPU,
Inductor compiles and CUDA graphs replay (`capture`); on a CPU, ONNX Runtime is faster than Inductor.
"""

import fcntl
import hashlib
import inspect
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import diffusers
import numpy as np
import torch

from opad_core import pixels
from opad_core.bases import loading
from opad_core.bases.fast_decoder import recorded_hashes
from opad_core.errors import OpadError
from opad_core.generation import fixed_sizes, inductor, one_step, onnx_runtime
from opad_core.generation import generator as generator_module
from opad_core.generation.fixed_sizes import FixedSizes
from opad_core.generation.generator import Functions, OneStepGenerator
from opad_core.networks import denoiser, schedule

COMPILERS: dict[str, ModuleType] = {"inductor": inductor, "onnxruntime": onnx_runtime}
_KEPT = 4
"""Folders that stay in the cache: those that were used last, for instance of another base or an earlier version."""
_FILLED = "filled"
"""The file that says that a folder is complete."""
_CODE = (denoiser, schedule, loading, pixels, one_step, fixed_sizes, generator_module, inductor, onnx_runtime)


def compiler_for(device: torch.device) -> str | None:
    """Return the name of the device's compiler in COMPILERS; None for a device without one."""
    return {"cuda": "inductor", "cpu": "onnxruntime"}.get(device.type)


def cache_folder(root: Path, generator: OneStepGenerator, compiler: str) -> Path:
    """Return the folder under `root` of what the compiler makes of these networks on this device."""
    device = generator.base.device
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    parts = [
        compiler, COMPILERS[compiler].VERSION, torch.__version__, diffusers.__version__, platform.machine(), named,
        generator.base.manifest.sha256, *sorted(recorded_hashes(generator.base.folder).values()),
        str(generator.base.dtype), str(generator.sizes), *map(inspect.getsource, _CODE),
    ]  # fmt: skip
    return root / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def has_compiled(root: Path, generator: OneStepGenerator, compiler: str) -> bool:
    return (cache_folder(root, generator, compiler) / _FILLED).exists()


def fill_compile_cache(generator: OneStepGenerator, root: Path, compiler: str) -> None:
    """Compile the networks into the cache, unless they are there. Takes seconds to minutes.

    Raises OpadError if the compiled networks generate other images than the generator, OSError if the folder cannot be
    written, and what the compiler raises.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = cache_folder(root, generator, compiler)
    with _only_one(root):
        if (folder / _FILLED).exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        COMPILERS[compiler].fill(generator, folder)
        _check(generator, COMPILERS[compiler].load(generator, folder))
        (folder / _FILLED).touch()
        _remove_old(root)


def load_compile_cache(
    generator: OneStepGenerator, root: Path, compiler: str, *, before_each: Callable[[], object] = lambda: None
) -> Functions:
    """Return the compiled networks of a filled cache. Any thread may call it while another one generates.

    It takes up to minutes. `before_each` is called before each part of the work, and may raise to end it.
    """
    folder = cache_folder(root, generator, compiler)
    os.utime(folder / _FILLED)
    functions: Functions = COMPILERS[compiler].load(generator, folder, before_each=before_each)
    return functions


def capture(generator: OneStepGenerator, functions: Functions) -> tuple[Functions, list[Callable[[], None]]]:
    """Return the functions as CUDA graphs, and the steps that record them.

    Run the steps in the thread that generates, before the functions are used. The first steps of a thread take longer,
    because cuDNN selects the kernels of its convolutions. A second capture in the same thread finds them.
    """
    if generator.base.device.type == "cuda":
        generator.use_channels_last()
    fixed = {name: FixedSizes(function) for name, function in functions.items()}

    def step(size: int) -> None:
        examples = generator.examples(size)
        for name, function in fixed.items():
            function.record(*examples[name])

    return fixed, [partial(step, size) for size in sorted(generator.sizes, reverse=True)]


def image_difference(images: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Return how much two arrays of images [b, r, r, 3] uint8 differ, in levels of 255.

    The largest difference of a pixel, the mean difference, and the largest difference of the means of an 8 x 8 block.
    """
    difference = images.astype(np.float64) - others
    b, r, _, _ = images.shape
    blocks = difference.reshape(b, r // 8, 8, r // 8, 8, 3).mean((2, 4))
    return float(np.abs(difference).max()), float(np.abs(difference).mean()), float(np.abs(blocks).max())


def _check(generator: OneStepGenerator, functions: Functions) -> None:
    """Raise OpadError if the functions generate other images than the generator's own networks."""
    for size in generator.sizes:
        examples = generator.examples(size)
        with torch.no_grad():
            expected_latents = generator.modules["one_step"](*examples["one_step"])
            latents = functions["one_step"](*examples["one_step"])
            for decoder in functions.keys() - {"one_step"}:
                expected = generator.modules[decoder](expected_latents).cpu().numpy()
                largest, mean, block = image_difference(expected, functions[decoder](latents).cpu().numpy())
                # rounding on a CPU in float32; half precision and TF32 round more, which is not visible within these
                exact = generator.base.device.type == "cpu" and generator.base.dtype == torch.float32
                if (largest > 1) if exact else (mean > 2 or block > 8):
                    raise OpadError(
                        f"the compiled networks generate other images: by up to {largest:.0f} of 255 levels, "
                        f"{mean:.2f} in the mean, in a batch of {size} with the {decoder} decoder"
                    )


def _remove_old(root: Path) -> None:
    filled = sorted((file.stat().st_mtime, file.parent) for file in root.glob(f"*/{_FILLED}"))
    for _, old in filled[:-_KEPT]:
        shutil.rmtree(old)


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Let one process at a time fill the cache; engines on one machine share it."""
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
