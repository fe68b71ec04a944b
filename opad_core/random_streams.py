"""Named random streams: each generator is derived from `(seed, step, name)`, and none is ever saved.

A resumed training needs only its step, and an extra random number in one stream cannot shift another.
"""

import hashlib

import torch


def stream(seed: int, step: int, name: str) -> torch.Generator:
    """Return a CPU generator for one purpose in one step. Equal arguments give equal numbers on every device."""
    digest = hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
