"""Refuse JSON that two parsers could read differently."""

import json
from contextlib import suppress
from typing import Any

from fastapi import Request

from api.domain.errors import Malformed


async def without_repeated_keys(request: Request) -> None:
    """Refuse a repeated key: one program reads the first value and another the last (RFC 8259, section 4)."""
    if "json" in request.headers.get("content-type", "").lower():
        refuse_repeated_keys(await request.body() or b"null")


def refuse_repeated_keys(text: str | bytes) -> None:
    """Raise Malformed for JSON that has a key twice in one object, and nothing for a text that is no JSON."""
    with suppress(ValueError):  # FastAPI and pydantic say where the syntax is wrong
        json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, value in pairs:
        if name in known:
            raise Malformed(f"the key {name[:40]!r} is there twice; send it once", "repeated_key")
        known[name] = value
    return known
