"""Compile the networks of an image with `torch.compile`. Inductor keeps what it compiled in a folder.

Only the blocks that a network repeats are compiled, each shape once: that takes a fraction of the time that whole
networks take, and a CUDA graph then replays the compiled blocks and the few operations between them.
"""

import copy
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from opad_core.generation.generator import Functions, OneStepGenerator

VERSION = torch.__version__
_REPEATED = {
    "ResnetBlock2D", "Transformer2DModel", "AutoencoderTinyBlock", "CLIPEncoderLayer", "ViTLayer", "Dinov2Layer",
}  # fmt: skip
_SHAPES = 512
"""Limit of the shapes of one kind of block. SD-Turbo's residual blocks have 23 shapes in UNet and decoder, and each
batch size counts again; PyTorch's own limit is 8, and beyond it compiling fails."""


def fill(generator: OneStepGenerator, folder: Path) -> None:
    """Compile the networks at its batch sizes into the folder. Needs a C compiler."""
    load(generator, folder)


def load(generator: OneStepGenerator, folder: Path, *, before_each: Callable[[], object] = lambda: None) -> Functions:
    """Return the compiled networks, which take batches of `generator.sizes`. What the folder has is not compiled again.

    Another thread may use the generator meanwhile: its networks change only in the layout of their weights on a GPU.
    Tracing takes a minute for SD-Turbo; `before_each` is called before each network and size, and may raise.
    """
    keep_in(folder)
    if generator.base.device.type == "cuda":
        generator.use_channels_last()  # compiled code is for one layout
    functions = {name: compiled_twin(module) for name, module in generator.modules.items()}
    for size in generator.sizes:
        examples = generator.examples(size)
        for name, function in functions.items():
            before_each()
            with torch.no_grad():
                function(*examples[name])
    return functions


def keep_in(folder: Path) -> None:
    """Keep what is compiled from now on in a folder, and allow for the many shapes of repeated blocks."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    torch._dynamo.config.recompile_limit = _SHAPES
    torch._dynamo.config.accumulated_recompile_limit = len(_REPEATED) * _SHAPES


def compiled_twin(module: nn.Module) -> nn.Module:
    """Return a copy whose repeated blocks are compiled when they are first called. It shares the original's tensors."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    twin: nn.Module = copy.deepcopy(module, shared)
    for part in twin.modules():
        if type(part).__name__ in _REPEATED:
            part.compile(fullgraph=True, dynamic=False)
    return twin
