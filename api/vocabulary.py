"""Check a class noun against the served base."""

import difflib
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from api.domain.errors import Invalid, Unavailable
from api.domain.tables import ServedBase

_MAX_NEAR = 8


async def served_base(session: AsyncSession, configured: str) -> ServedBase:
    """Return the announced base that the settings name, or the newest one if they name a path."""
    query = select(ServedBase).order_by(ServedBase.announced_at.desc()).limit(1)
    if "/" not in configured:
        query = query.where(ServedBase.name == configured)
    base = await session.scalar(query)
    if base is None:
        raise Unavailable(
            f"no engine has announced the base {configured!r} yet; start an engine, or wait until it has loaded",
            "no_base",
        )
    return base


def check_class_noun(base: ServedBase, noun: str) -> str:
    if base.nouns is None or noun in base.nouns:
        return noun
    near = _near(noun, base.nouns)
    raise Invalid(
        f"the base {base.name!r} does not know {noun!r}; choose one of: {', '.join(near)}",
        "unknown_class_noun",
        near=near,
        errors=[{"field": "class_noun", "message": f"{noun!r} is unknown; near: {', '.join(near)}"}],
    )


def _near(word: str, known: Iterable[str]) -> list[str]:
    """Return the known words closest to this one, or the first known words if none is close."""
    known = sorted(known)
    return difflib.get_close_matches(word, known, n=_MAX_NEAR, cutoff=0.5) or known[:_MAX_NEAR]
