"""Compare the student's own text encoder with the teacher's, which serves both here."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

FILE = "text_encoder/model.safetensors"
"""The path in a repository of Stable Diffusion, and in a base."""


def compare_text_encoders(ours: Path, theirs: Path) -> dict[str, Any]:
    """Compare two safetensors files tensor by tensor, in float32; return what `Manifest.student_text_encoder` holds.

    Tensors that only one file has, or that have another shape, are different. Counters of positions are left out.
    """
    with safe_open(ours, "pt") as own, safe_open(theirs, "pt") as other:
        names = [{name for name in file.keys() if not name.endswith("position_ids")} for file in (own, other)]  # noqa: SIM118  # no mapping
        different, largest = sorted(names[0] ^ names[1]), 0.0
        for name in sorted(names[0] & names[1]):
            a, b = own.get_tensor(name).float(), other.get_tensor(name).float()
            if a.shape != b.shape:
                different.append(name)
            elif not torch.equal(a, b):
                different.append(name)
                largest = max(largest, float((a - b).abs().max()))
    return {"tensors": len(names[0] | names[1]), "different": different, "largest": largest}
