"""The concept bundle: what a training leaves behind. One safetensors file; its header carries a JSON manifest.

    token_row                 [d] float32            V*
    <layer>.to_k.weight       [inner, d] float16     student's key projection, named as in the UNet
    <layer>.to_v.weight       [inner, d] float16

No time stamps: the same training gives the same bytes, so a repeated upload is the same object.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from opad_core.adapters.key_value import KeyValueProjections, projections_of
from opad_core.config import OpadConfig
from opad_core.errors import OpadError

FORMAT = 1
MAX_HEADER_BYTES = 1 << 20
"""SD-Turbo's bundle has 33 tensors and a header of 6 kB; a huge header is an attack on the parser."""
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
    token_row: Tensor
    projections: KeyValueProjections


def write_bundle(
    *,
    token_row: Tensor,
    projections: KeyValueProjections,
    class_noun: str,
    base: str,
    base_sha256: str,
    config: OpadConfig,
    seed: int,
) -> bytes:
    manifest = {
        "format": FORMAT,
        "class_noun": class_noun,
        "base": base,
        "base_sha256": base_sha256,
        "seed": seed,
        "config": asdict(config),
    }
    tensors = {name: x.half().cpu().contiguous() for name, x in projections.tensors().items()}
    tensors["token_row"] = token_row.detach().float().cpu().contiguous()
    return save(tensors, metadata={"manifest": json.dumps(manifest, sort_keys=True)})


def read_bundle(data: bytes) -> Bundle:
    """A bundle out of bytes that nobody vouches for. Raises OpadError saying what is wrong with them."""
    header_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header_bytes > min(MAX_HEADER_BYTES, len(data) - 8):
        raise OpadError("not a concept bundle: its safetensors header is missing or larger than 1 MB")
    try:
        header = json.loads(data[8 : 8 + header_bytes])
        manifest = json.loads(header["__metadata__"]["manifest"])
        tensors = load(data)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise OpadError(f"not a concept bundle: {error}") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= _MANIFEST_KEYS:
        raise OpadError(f"not a concept bundle: its manifest lacks one of {', '.join(sorted(_MANIFEST_KEYS))}")
    if manifest["format"] != FORMAT:
        raise OpadError(f"the bundle has format {manifest.get('format')!r}; this version reads format {FORMAT}")
    token_row = tensors.pop("token_row", None)
    layers = {name.rpartition(".to_")[0] for name in tensors}
    if token_row is None or set(tensors) != {f"{layer}.to_{x}.weight" for layer in layers for x in "kv"}:
        raise OpadError("the bundle's tensors are not one token row and pairs of to_k and to_v")
    for name, tensor in {"token_row": token_row, **tensors}.items():
        if tensor.dtype not in _DTYPES or not tensor.isfinite().all():
            raise OpadError(f"the bundle's tensor {name} is not made of finite half or single precision numbers")
    return Bundle(
        id=hashlib.sha256(data).hexdigest(),
        class_noun=manifest["class_noun"],
        base=manifest["base"],
        base_sha256=manifest["base_sha256"],
        manifest=manifest,
        token_row=token_row.float(),
        projections=projections_of({name: tensor.float() for name, tensor in tensors.items()}).requires_grad_(False),
    )
