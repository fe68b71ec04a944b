"""The check of a base's weights: once for each base, and again on request.

A trainer host runs it when it has no job. Another host may take over a check whose host has not reported for an hour.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Float, Interval, Update, and_, exists, func, literal, null, or_, select, update
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.sql.dml import ReturningInsert

from api.domain.replaced_bases import present_base
from api.domain.tables import Attempt, BaseCheck, ServedBase

ABANDONED_AFTER = timedelta(hours=1)


def request() -> Insert:
    """Ask for a check of the present base, also if it was checked before. No row if no engine has announced one."""
    present = present_base().with_only_columns(ServedBase.manifest_sha256)
    return (
        insert(BaseCheck)
        .from_select(["base_sha256"], present, include_defaults=False)
        .on_conflict_do_update(index_elements=[BaseCheck.base_sha256], set_={"requested_at": func.now()})
    )


def claim(worker: str, *, host: str, idle_seconds: float) -> ReturningInsert[str]:
    """Begin the check of the present base. Row: the base's hash.

    There is no row if the check is not due, another host runs it, no engine has announced a base, or if `worker` (the
    host's name in attempts) had a job within the last `idle_seconds`.
    """
    idle = func.make_interval(0, 0, 0, 0, 0, 0, literal(idle_seconds, Float), type_=Interval)
    worked = exists().where(
        Attempt.worker == worker, or_(Attempt.ended_at.is_(None), Attempt.ended_at > func.now() - idle)
    )
    present = present_base().subquery()
    begun = select(present.c.manifest_sha256, func.now(), literal(host)).where(~worked)
    is_due = and_(
        or_(BaseCheck.checked_at.is_(None), BaseCheck.checked_at < BaseCheck.requested_at),
        or_(BaseCheck.started_at.is_(None), BaseCheck.started_at < func.now() - ABANDONED_AFTER),
    )
    return (
        insert(BaseCheck)
        .from_select(["base_sha256", "started_at", "host"], begun, include_defaults=False)
        .on_conflict_do_update(
            index_elements=[BaseCheck.base_sha256], set_={"started_at": func.now(), "host": host}, where=is_due
        )
        .returning(BaseCheck.base_sha256)
    )


def finish(base_sha256: str, answers: Sequence[dict[str, str]]) -> Update:
    """Store the answers."""
    return _ended(base_sha256).values(checked_at=func.now(), answers=list(answers))


def interrupt(base_sha256: str) -> Update:
    """End the check without answers; it is due again."""
    return _ended(base_sha256)


def _ended(base_sha256: str) -> Update:
    return update(BaseCheck).where(BaseCheck.base_sha256 == base_sha256).values(started_at=null())
