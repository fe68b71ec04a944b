"""Read the header of safetensors bytes, as a check before the library parses the file."""

import json
from collections.abc import Callable
from typing import Any


def read_header(read: Callable[[int, int], bytes], *, max_bytes: int) -> tuple[dict[str, Any], int]:
    """Return the header and the offset at which the tensors begin.

    `read(start, end)` returns these bytes of the file, fewer at its end. Raises ValueError for a header that is
    missing, longer than `max_bytes`, cut off, or not a JSON object.
    """
    length = read(0, 8)
    size = int.from_bytes(length, "little")
    if len(length) < 8 or size > max_bytes:
        raise ValueError("its safetensors header is missing or too large")
    text = read(8, 8 + size)
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("its safetensors header is not a JSON object")
    return header, 8 + size


def header_of(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Return the header of a whole file in memory. Raises ValueError as `read_header` does."""
    return read_header(lambda start, end: data[start:end], max_bytes=min(max_bytes, len(data)))[0]
