"""Refuse JSON bodies that two parsers could read differently."""

import json
from typing import Any

from fastapi import Request

from api.domain.errors import Malformed


async def without_repeated_keys(request: Request) -> None:
    """Refuse a repeated key: one program reads the first value and another the last (RFC 8259, section 4)."""
    if "json" in request.headers.get("content-type", "").lower():
        json.loads(await request.body() or b"null", object_pairs_hook=_unique)  # its syntax was checked before


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, value in pairs:
        if name in known:
            raise Malformed(f"the key {name[:40]!r} is in the body twice; send it once", "repeated_key")
        known[name] = value
    return known
