"""An append-only log of who did what. Each row holds the hash of itself and of the row before it.

A row is the last statement of the transaction that it records. Until that transaction commits, no other can add a row;
a lock taken after the row could therefore deadlock.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.domain.tables import AuditEvent

_LOCK = 0x0FAD_0003
"""Advisory lock: rows are added one at a time, so that each can hash the one before."""
_GENESIS_HASH = bytes(32)


@dataclass(frozen=True)
class Mark:
    """The number and hash of a row that was once in the log."""

    number: int
    hash: bytes


@dataclass(frozen=True)
class Verification:
    intact: bool
    message: str


def record(
    session: Session,
    *,
    action: str,
    object_id: UUID | None,
    outcome: str,
    owner_id: UUID | None,
    api_key_id: UUID | None = None,
    request_id: str | None = None,
) -> None:
    """Add a row. The caller commits and executes nothing else before that."""
    session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    newest = select(AuditEvent.number, AuditEvent.hash).order_by(AuditEvent.number.desc()).limit(1).subquery()
    last = session.execute(select(newest.c.number, newest.c.hash)).one_or_none()
    number, before = (last.number, last.hash) if last else (0, _GENESIS_HASH)
    event = AuditEvent(
        number=number + 1,
        at=session.scalars(select(func.clock_timestamp())).one(),
        owner_id=owner_id,
        api_key_id=api_key_id,
        action=action,
        object_id=object_id,
        outcome=outcome,
        request_id=request_id,
    )
    event.hash = event.seal(before)
    session.add(event)
    session.flush()


def verify(session: Session, *, contains: Mark | None = None) -> Verification:
    """Check that every row is unchanged and none is missing; with `contains`, also that the log has that row."""
    number, before, found = 0, _GENESIS_HASH, contains is None
    rows = session.scalars(select(AuditEvent).order_by(AuditEvent.number).execution_options(yield_per=1000))
    for row in rows:
        number += 1
        if row.number != number:
            return Verification(False, f"row {number} of the audit log is missing; the next one is {row.number}")
        if row.hash != row.seal(before):
            return Verification(False, f"row {number} of the audit log ({row.action}) has been changed")
        before = row.hash
        found = found or (contains is not None and contains == Mark(number, row.hash))
    if not found:
        assert contains is not None
        return Verification(
            False, f"row {contains.number} with that hash is not in the audit log, which ends at {number}"
        )
    if not number:
        return Verification(True, "the audit log is empty")
    advice = "store this elsewhere and pass it to a later verify as --contains"
    return Verification(True, f"{number} rows, unbroken; {advice}: {number}:{before.hex()}")


def parse_mark(text: str) -> Mark:
    """Parse `NUMBER:HASH` as `verify` prints it. Raises ValueError."""
    number, _, digest = text.partition(":")
    return Mark(int(number), bytes.fromhex(digest))
