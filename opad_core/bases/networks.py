"""Read a network of a base from its folder: check its files, build it, move it to the device.

Networks may be read in several threads at once. A file is hashed, and then mapped while its pages are still in memory,
so each is read from disk once.
"""

import threading
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import nn

from opad_core.bases.manifest import Manifest, hash_of
from opad_core.errors import OpadError

_BUILDING = threading.Lock()
"""diffusers and transformers switch PyTorch's initialization off while they build a network, for the whole process."""


def verified(folder: Path, manifest: Manifest, part: str) -> Path:
    """Return the folder of a part. Raises OpadError if a file is missing or its hash is not the manifest's."""
    for path, expected in manifest.files.items():
        if path.startswith(f"{part}/"):
            file = folder / path
            if not file.is_file():
                raise OpadError(f"{file} is missing from the base {manifest.name!r}; install it again")
            if hash_of(file) != expected:
                raise OpadError(f"{file} differs from the hash in its manifest; install the base again")
    return folder / part


def read_network(kind: Any, folder: Path, dtype: torch.dtype, device: torch.device, **options: Any) -> Any:
    """Return a frozen network of diffusers or transformers from safetensors, in this dtype, on the device.

    A missing tensor is an error, because it would silently stay random. Raises OpadError.
    """
    with _BUILDING:
        network = _built(kind, folder, **options)
    return frozen(network, device, dtype)


def frozen(network: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Freeze a network in place, cast it and move it, tensor by tensor. diffusers' own `to` warns about each cast."""
    for parameter in network.parameters():
        parameter.requires_grad = False
    return nn.Module.to(network.eval(), device=device, dtype=dtype)


def _built(kind: Any, folder: Path, **options: Any) -> Any:
    """Return a network in float32 on the CPU. If its file is in float32, its tensors are views of the mapped file.

    Another dtype here would be PyTorch's default in all threads while the network is built.
    """
    if issubclass(kind, ModelMixin):
        # Without `low_cpu_mem_usage`, diffusers logs a request to install accelerate, which is not needed.
        options |= {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
    else:  # PyTorch's attention is a flash kernel in half precision
        options |= {"dtype": torch.float32, "attn_implementation": "sdpa"}
    try:
        network, report = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise OpadError(f"{folder} does not hold a complete {kind.__name__}: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise OpadError(f"{folder} lacks {len(missing)} tensors of a {kind.__name__}, the first is {missing[0]}")
    return network
