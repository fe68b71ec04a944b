"""Run the networks of an image with ONNX Runtime, which halves the time of an image on a CPU."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from opad_core.generation.generator import MAX_BATCH, Functions, OneStepGenerator

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else the import below reports to its vendor
import onnxruntime

VERSION = onnxruntime.__version__


def fill(generator: OneStepGenerator, folder: Path) -> None:
    """Export each network to `<name>.onnx` in the folder."""
    examples = generator.examples(2)
    for name, module in generator.modules.items():
        _export(module, examples[name], folder / f"{name}.onnx")


def load(generator: OneStepGenerator, folder: Path, *, before_each: Callable[[], object] = lambda: None) -> Functions:
    """Return what `fill` wrote as functions, which take batches of any size.

    `before_each` is called before each network, and may raise.
    """
    functions = {}
    for name in generator.modules:
        before_each()
        functions[name] = _session(folder / f"{name}.onnx")
    return functions


def _export(module: nn.Module, examples: tuple[Tensor, ...], file: Path) -> None:
    rows = torch.export.Dim("rows", min=1, max=MAX_BATCH)
    torch.onnx.export(
        module.eval(),
        examples,
        file,
        dynamo=True,
        dynamic_shapes=tuple({0: rows} for _ in examples),
        external_data=True,  # a single file may not exceed 2 GB
        verbose=False,
    )


def _session(file: Path) -> Callable[..., Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # waiting threads leave the cores to others
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        (output,) = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        return torch.from_numpy(output)

    return run
