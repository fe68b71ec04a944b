"""Read a PyTorch pickle from stdin and write its tensors to stdout as safetensors: the process that `convert` starts.

It runs without a network (`no_network`), with limits on memory, time and output, and with no open file but these two.
`torch.load(weights_only=True)` builds tensors and containers only; the limits are for the day when that has a hole.
"""

import json
import os
import pickle
import resource
import sys
import zipfile
from enum import IntEnum
from typing import IO, Any

import torch
from torch import Tensor

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""What the tensors of a network may be, with their names in safetensors."""
_CPU_SECONDS = 600
_SPARE_MEMORY_BYTES = 1 << 30
_MAX_HEADER_BYTES = 1 << 20


class Outcome(IntEnum):
    """The exit status of the process."""

    CONVERTED = 0
    NOT_TENSORS = 91
    DAMAGED = 92
    TOO_LARGE = 93


class NotTensorsError(Exception):
    pass


class TooLargeError(Exception):
    pass


def main() -> None:
    most = int(sys.argv[1])
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(0, "rb", closefd=False) as source, os.fdopen(1, "wb", closefd=False) as target:
        _load_lazy_modules()
        _limit_resources(most)
        os.dup2(nowhere, sys.stderr.fileno())  # what PyTorch prints about untrusted bytes is not shown
        sys.exit(outcome(source, target, most))


def outcome(source: IO[bytes], target: IO[bytes], most: int) -> Outcome:
    """Convert a pickled state dict of at most so many bytes, and return how it went."""
    try:
        write_tensors(read_tensors(source, most), target)
    except (NotTensorsError, pickle.UnpicklingError):
        return Outcome.NOT_TENSORS
    except (TooLargeError, MemoryError):
        return Outcome.TOO_LARGE
    except Exception:  # noqa: BLE001  the outermost loop of a process that reads untrusted bytes
        return Outcome.DAMAGED
    return Outcome.CONVERTED


def read_tensors(source: IO[bytes], most: int) -> dict[str, Tensor]:
    """Return the tensors of a pickled state dict of at most so many bytes.

    Raises NotTensorsError, TooLargeError, and PyTorch's own errors for a damaged file.
    """
    with zipfile.ZipFile(source) as archive:  # PyTorch's format since 2020; it never compresses
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise TooLargeError
        if sum(entry.file_size for entry in entries) > most:
            raise TooLargeError
    source.seek(0)
    state: Any = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise NotTensorsError
    # until 2023 transformers stored the numbers of the positions, 0, 1, 2 and so on, with CLIP's weights
    state = {name: tensor for name, tensor in state.items() if not str(name).endswith(".position_ids")}
    for name, tensor in state.items():
        if not (
            isinstance(name, str)
            and isinstance(tensor, Tensor)
            and tensor.layout == torch.strided
            and tensor.device.type == "cpu"
            and tensor.dtype in DTYPES
        ):
            raise NotTensorsError
    # a view may repeat one number a billion times
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > most:
        raise TooLargeError
    return state


def write_tensors(tensors: dict[str, Tensor], target: IO[bytes]) -> None:
    """Write safetensors, one tensor at a time in the order of their names, so that equal tensors give equal bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    if len(text) > _MAX_HEADER_BYTES:
        raise TooLargeError
    text += b" " * (-len(text) % 8)  # the format wants the tensors aligned
    target.write(len(text).to_bytes(8, "little") + text)
    for _, tensor in sorted(tensors.items()):
        target.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    target.flush()


def _load_lazy_modules() -> None:
    """Let PyTorch import what it imports on first use, before the limits forbid opening files."""
    import io

    file = io.BytesIO()
    torch.save({"x": torch.zeros(1)}, file)
    file.seek(0)
    write_tensors(torch.load(file, weights_only=True), io.BytesIO())


def _limit_resources(most: int) -> None:
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()  # PyTorch's libraries
    for name, limit in (
        (resource.RLIMIT_AS, used + most + _SPARE_MEMORY_BYTES),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_FSIZE, most + _MAX_HEADER_BYTES + 16),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 8),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(name)[1]  # the host may allow less, and nobody may raise it
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (limit, limit))
