"""The checkpoint of a training: safetensors bytes with a JSON header, no pickle.

Randomness is not in it: it is derived from the seed and the step (`random_streams`).
"""

import json
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from opad_core.errors import OldCheckpointError, OpadError, OtherTrainingError

FORMAT = 5


def write_checkpoint(header: dict[str, Any], tensors: dict[str, Tensor], *, fingerprint: str) -> bytes:
    """Return the bytes; `fingerprint` names what they belong to: method, base, settings, references and seed."""
    whole = header | {"format": FORMAT, "fingerprint": fingerprint}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(tensors, metadata={"state": json.dumps(whole)})


def read_checkpoint(data: bytes, *, fingerprint: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return header and tensors.

    Raises OpadError for damaged bytes, OldCheckpointError for those of an older version, and OtherTrainingError for
    those of another training.
    """
    try:
        header_bytes = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + header_bytes])["__metadata__"]["state"])
        tensors = load(data)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise OpadError(f"the checkpoint cannot be read: {error}") from error
    if header["format"] != FORMAT:
        raise OldCheckpointError(f"the checkpoint has format {header['format']}; this version reads format {FORMAT}")
    if header["fingerprint"] != fingerprint:
        raise OtherTrainingError("the checkpoint belongs to another training (other images, settings, seed or base)")
    return header, tensors


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Reverse `named` for one prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
