"""The checkpoint of a training: safetensors bytes with a JSON header, no pickle.

It holds no random state, because random numbers are derived from the seed and the step (`random_streams`).
"""

import json
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from opad_core.errors import OldCheckpointError, OpadError, OtherTrainingError
from opad_core.tensor_file import header_of

FORMAT = 6
MAX_HEADER_BYTES = 16 << 20
"""Hundreds of tensors; a huge header is damage."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A copy of the whole state of a training, on the CPU."""

    header: dict[str, Any]
    tensors: dict[str, Tensor]
    fingerprint: str
    """Identifies the training (`training.data.fingerprint`)."""

    def to_bytes(self) -> bytes:
        """Return the checkpoint as bytes. Any thread may call it."""
        header = self.header | {"format": FORMAT, "fingerprint": self.fingerprint}
        return save(self.tensors, metadata={"state": json.dumps(header)})


def copied(header: dict[str, Any], tensors: dict[str, Tensor], *, fingerprint: str) -> Snapshot:
    """Return a state with copies of the tensors."""
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return Snapshot(header, copies, fingerprint)


def read_state(data: bytes, *, fingerprint: str) -> Snapshot:
    """Return the state of a checkpoint.

    Raises OpadError for damaged bytes, OldCheckpointError for a checkpoint of an older version, and OtherTrainingError
    for one of another training.
    """
    try:
        header = json.loads(header_of(data, max_bytes=MAX_HEADER_BYTES)["__metadata__"]["state"])
        tensors = load(data)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise OpadError(f"the checkpoint cannot be read: {error}") from error
    if header["format"] != FORMAT:
        raise OldCheckpointError(f"the checkpoint has format {header['format']}; this version reads format {FORMAT}")
    if header["fingerprint"] != fingerprint:
        raise OtherTrainingError("the checkpoint belongs to another training (other images, settings, seed or base)")
    return Snapshot(header, tensors, fingerprint)


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Reverse `named` for one prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
