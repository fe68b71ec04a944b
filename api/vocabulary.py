"""Check a class noun against the served base."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from api.domain.errors import Invalid, Unavailable
from api.domain.tables import ServedBase


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
    # No near word: spelling offers "backpack" for "zwieback".
    known = len(base.nouns)
    raise Invalid(
        f"the base {base.name!r} does not know the class noun {noun!r}; GET /v1/base lists the {known} that it knows",
        "unknown_class_noun",
        errors=[{"field": "class_noun", "message": f"{noun!r} is none of the {known} that {base.name} knows"}],
    )
