"""Compile a base's networks into a cache: `python -m worker.inference.compile --base NAME ... --cache FOLDER`.

An engine runs this as a child, so that it can serve meanwhile and survives a compiler that crashes. The last line of
the output says what failed.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import get_args

import psutil
import torch

from opad_core import COMPILERS, OneStepGenerator, OpadError, Precision, fill_compile_cache, load_base

_NICENESS = 10
_COPIES = 4
"""How many times the networks are in memory during an export: PyTorch's, the trace's, the file's and ONNX Runtime's."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.inference.compile", description=__doc__)
    parser.add_argument("--base", required=True, help="name of a base or the path of its folder")
    parser.add_argument("--bases", type=Path, help="folder of fetched bases")
    parser.add_argument("--device", required=True, help="cpu, cuda or cuda:1")
    parser.add_argument("--precision", required=True, choices=get_args(Precision), help="of the engine")
    parser.add_argument("--compiler", required=True, choices=COMPILERS, help="that of the device")
    parser.add_argument("--cache", required=True, type=Path, help="folder of the compiled networks")
    chosen = parser.parse_args()
    os.nice(_NICENESS)
    try:
        base = load_base(chosen.base, bases=chosen.bases, device=chosen.device, precision=chosen.precision)
        generator = OneStepGenerator(base)
        _check_memory(generator)
        fill_compile_cache(generator, chosen.cache, chosen.compiler)
    except OpadError as error:
        print(error)
        return 1
    except OSError as error:
        print(f"{error.filename or chosen.cache}: {error.strerror or error}")
        return 1
    except Exception as error:  # noqa: BLE001  # whatever a compiler raises is the reason
        lines = [line for line in str(error).splitlines() if line.strip()]
        print(f"{chosen.compiler} failed: {lines[0] if lines else type(error).__name__}")
        return 1
    return 0


def _check_memory(generator: OneStepGenerator) -> None:
    if generator.base.device.type != "cpu":
        return
    sizes = (x.numel() * x.element_size() for module in generator.modules.values() for x in module.parameters())
    needed, free = _COPIES * sum(sizes), psutil.virtual_memory().available
    if needed > free:
        raise OpadError(f"compiling needs {needed / 1e9:.1f} GB of free memory, and {free / 1e9:.1f} are free")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the engine and the other processes here need the cores
    sys.exit(main())
