"""What the served base knows: its class nouns, and what it cannot learn."""

from sqlalchemy.ext.asyncio import AsyncSession

from api.domain.errors import Invalid, Unavailable
from api.domain.replaced_bases import present_base
from api.domain.tables import ServedBase


async def served_base(session: AsyncSession, configured: str) -> ServedBase:
    """Return the announced base that the settings name, or the newest one if they name a path."""
    query = present_base()
    if "/" not in configured:
        query = query.where(ServedBase.name == configured)
    base = await session.scalar(query)
    if base is None:
        raise no_base(configured)
    return base


def no_base(configured: str) -> Unavailable:
    return Unavailable(
        f"no engine has announced the base {configured!r} yet; start an engine, or wait until it has loaded", "no_base"
    )


def warnings_of(base: ServedBase) -> list[str]:
    """Return what to know before anything is trained on the base."""
    return [base.limits] if base.limits else []


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
