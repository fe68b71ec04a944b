"""Randomness by name: every draw comes from `(seed, step, stream)`, never from a stream that was saved.

So a resumed training needs only its step, and a new draw in one stream cannot shift another.
"""

import hashlib

import torch


def stream(seed: int, step: int, name: str) -> torch.Generator:
    """A CPU generator for one purpose in one step; the same triple gives the same numbers on every device."""
    digest = hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
