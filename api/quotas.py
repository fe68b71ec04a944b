"""Quotas of an owner, counted in the database: concepts, and minutes of training per day.

The limits are those of the key that asks; the counts are of its owner, over all keys.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from fastapi import Request
from sqlalchemy import ColumnElement, SQLColumnExpression, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Caller
from api.domain.errors import Conflict, TooManyRequests
from api.domain.settings import Settings
from api.domain.tables import Attempt, Concept, ErasedTraining, Job, Owner
from api.limits import allowance, report_limit
from api.rate_limiter import Window

_DAY_SECONDS = 24 * 3600


async def check_concepts(session: AsyncSession, settings: Settings, who: Caller) -> None:
    """Raise Conflict if the quota is used up. Locks the owner, so that of two creates one counts the other."""
    quota = allowance(settings, who, "max_concepts")
    if quota is None:
        return
    await session.execute(select(Owner.id).where(Owner.id == who.owner_id).with_for_update(key_share=True))
    have = await session.scalar(select(func.count()).select_from(Concept).where(Concept.owner_id == who.owner_id))
    if have is not None and have >= quota:
        raise Conflict(
            f"you have {have} of {quota} concepts; erase one, or ask for a larger quota",
            "concept_quota",
            quota=quota,
        )


async def check_training(session: AsyncSession, settings: Settings, who: Caller, request: Request) -> None:
    """Raise TooManyRequests if today's training minutes (UTC) are used up. Jobs that are queued by then still run."""
    quota = allowance(settings, who, "training_minutes_per_day")
    if quota is None:
        return
    today = func.date_trunc("day", func.now(), "UTC")
    of_jobs = (
        select(_seconds_since(today, Attempt.started_at, func.coalesce(Attempt.ended_at, func.now())))
        .join(Job, Job.id == Attempt.job_id)
        .where(Job.owner_id == who.owner_id, func.coalesce(Attempt.ended_at, func.now()) > today)
        .scalar_subquery()
    )
    of_erased = (
        select(_seconds_since(today, ErasedTraining.started_at, ErasedTraining.ended_at))
        .where(ErasedTraining.owner_id == who.owner_id, ErasedTraining.ended_at > today)
        .scalar_subquery()
    )
    until_midnight = func.extract("epoch", today + timedelta(days=1) - func.now())
    used, reset = (await session.execute(select(of_jobs + of_erased, until_midnight))).one()
    if used < quota * 60:
        return
    reset_seconds = max(1, round(reset))
    report_limit(request, "training-minutes", Window(quota, _DAY_SECONDS, 0, reset_seconds))
    raise TooManyRequests(
        f"your {quota} minutes of training per day are used up ({used / 60:.0f} since 00:00 UTC); "
        f"try again in {reset_seconds} s, or ask for a larger quota",
        "training_quota",
        retry_after=reset_seconds,
        quota=quota,
    )


async def keep_erased_training(session: AsyncSession, owner_id: UUID, job_ids: list[UUID]) -> None:
    """Copy the times of attempts before they are erased, so that today's minutes stay used. Drop older copies."""
    await session.execute(delete(ErasedTraining).where(ErasedTraining.ended_at < func.now() - timedelta(days=1)))
    ended = select(Attempt.id, Job.owner_id, Attempt.started_at, Attempt.ended_at).join(Job, Job.id == Attempt.job_id)
    await session.execute(
        insert(ErasedTraining).from_select(
            ["id", "owner_id", "started_at", "ended_at"],
            ended.where(
                Job.owner_id == owner_id, Job.id.in_(job_ids), Attempt.ended_at > func.now() - timedelta(days=1)
            ),
            include_defaults=False,
        )
    )


def _seconds_since(
    today: SQLColumnExpression[Any], started_at: SQLColumnExpression[Any], ended_at: SQLColumnExpression[Any]
) -> ColumnElement[float]:
    return func.coalesce(func.sum(func.extract("epoch", ended_at - func.greatest(started_at, today))), 0)
