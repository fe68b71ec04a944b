"""The concept bundle, the result of a training: one safetensors file whose header carries a JSON manifest.

The manifest names the adapter, and the tensors are the adapter's. For "key_value":

    token_row                 [d] float32            V*
    <layer>.to_k.weight       [inner, d] float16     student's key projection, named as in the UNet
    <layer>.to_v.weight       [inner, d] float16

A training with `teacher` gives a second bundle, of the teacher's projections; its manifest says so under "network".

The method's settings are stored as plain data for people to read; no code depends on them. There are no timestamps, so
the same training gives the same bytes, and a repeated upload is the same object.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from opad_core.adapters.adapter import Adapter
from opad_core.adapters.key_value import KeyValueAdapter
from opad_core.adapters.low_rank import LowRankAdapter
from opad_core.adapters.residual import ResidualAdapter
from opad_core.adapters.token import TokenAdapter
from opad_core.adapters.unet import UNetAdapter
from opad_core.errors import OpadError
from opad_core.tensor_file import header_of

FORMAT = 1
Network = Literal["student", "teacher"]
MAX_HEADER_BYTES = 1 << 20
"""SD-Turbo's bundle has 33 tensors and a header of 6 kB; a huge header is an attack on the parser."""
ADAPTERS: Mapping[str, type[Adapter]] = {
    kind.kind: kind for kind in (KeyValueAdapter, TokenAdapter, ResidualAdapter, LowRankAdapter, UNetAdapter)
}
MIXED_ADAPTERS: Mapping[str, type[Adapter]] = {
    kind.kind: kind for kind in (KeyValueAdapter, TokenAdapter, ResidualAdapter)
}
"""Adapters whose concepts may share a batch, because they leave the UNet as it is."""
_MANIFEST_KEYS = {"format", "class_noun", "base", "base_sha256"}
_DTYPES = {torch.float16, torch.float32}


@dataclass(frozen=True)
class Bundle:
    id: str
    """SHA-256 of the file."""
    class_noun: str
    base: str
    base_sha256: str
    manifest: dict[str, object]
    network: Network
    """The UNet of the base whose adapter it is."""
    adapter: Adapter
    """Frozen, float32, on the CPU. The generator moves it to its device with the first image of the concept."""


def write_bundle(
    adapter: Adapter,
    *,
    method: str,
    class_noun: str,
    base: str,
    base_sha256: str,
    config: dict[str, Any],
    seed: int,
    network: Network = "student",
) -> bytes:
    """Return the file's bytes. `config` are the method's settings, `base_sha256` is the hash of the base."""
    manifest = {
        "format": FORMAT,
        "adapter": adapter.kind,
        "method": method,
        "class_noun": class_noun,
        "base": base,
        "base_sha256": base_sha256,
        "seed": seed,
        "config": config,
    }
    if network != "student":
        manifest["network"] = network
    tensors = {name: x.cpu().contiguous() for name, x in adapter.tensors().items()}
    return save(tensors, metadata={"manifest": json.dumps(manifest, sort_keys=True)})


def read_bundle(data: bytes, *, adapters: Mapping[str, type[Adapter]] = ADAPTERS) -> Bundle:
    """Read a bundle from untrusted bytes. Raises OpadError that says what is wrong with them.

    A manifest that names no adapter is from an early version and means "key_value"; one that names no network means the
    student.
    """
    try:
        header = header_of(data, max_bytes=MAX_HEADER_BYTES)
        manifest = json.loads(header["__metadata__"]["manifest"])
        tensors = load(data)
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise OpadError(f"not a concept bundle: {error}") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= _MANIFEST_KEYS:
        raise OpadError(f"not a concept bundle: its manifest lacks one of {', '.join(sorted(_MANIFEST_KEYS))}")
    for name in ("class_noun", "base", "base_sha256"):
        try:
            manifest[name].encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise OpadError(f"not a concept bundle: its {name} is not text") from error
    if manifest["format"] != FORMAT:
        raise OpadError(f"the bundle has format {manifest.get('format')!r}; this version reads format {FORMAT}")
    kind = manifest.get("adapter", KeyValueAdapter.kind)
    if not isinstance(kind, str) or kind not in adapters:
        raise OpadError(f"the bundle's adapter is {kind!r}; this version knows {', '.join(sorted(adapters))}")
    network = manifest.get("network", "student")
    if network not in get_args(Network):
        raise OpadError(f"the bundle is of the network {network!r}; known are {' and '.join(get_args(Network))}")
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES or not tensor.isfinite().all():
            raise OpadError(f"the bundle's tensor {name} must hold finite numbers in half or single precision")
    return Bundle(
        id=hashlib.sha256(data).hexdigest(),
        class_noun=manifest["class_noun"],
        base=manifest["base"],
        base_sha256=manifest["base_sha256"],
        manifest=manifest,
        network=network,
        adapter=adapters[kind].from_tensors(tensors).requires_grad_(False),
    )
