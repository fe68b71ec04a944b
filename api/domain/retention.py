"""Remove data whose retention time is over. One reconciler does this once a night; the times are settings.

    images          stored images, `keep_images_days` after they were generated
    references      of a trained concept, `keep_references_days` after its last training; the concept still generates
                    images, but can only be trained again from new photos. References of a concept of a replaced base
                    stay while it can be trained again, because it generates no images until then
    failed uploads  references of a concept that never trained, `keep_failed_uploads_days` after its last training ended
    events          of jobs, `keep_events_days` after the job ended

Objects are deleted before the transaction ends, so the next night finds what failed half-way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Self
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, delete, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.domain import audit
from api.domain.database import Sessions
from api.domain.replaced_bases import is_of_another_base, obstacle
from api.domain.settings import Settings
from api.domain.storage import ERASURE, Storage
from api.domain.tables import FINAL_STATES, Bundle, Concept, Image, Job, JobEvent, Reference, RetentionSweep

_BATCH_SIZE = 50
"""Objects to delete in one transaction: a worker's transaction may idle for ten seconds."""
_HOUR_UTC = 3
_ABANDONED_AFTER = timedelta(hours=1)


@dataclass(frozen=True)
class Outdated:
    """How many items of each class are older than their retention time."""

    images: int = 0
    references: int = 0
    failed_uploads: int = 0
    events: int = 0

    def sentence(self) -> str:
        return (
            f"{self.images} images, {self.references} photos of trained concepts, "
            f"{self.failed_uploads} photos of failed trainings, {self.events} events"
        )


@dataclass(frozen=True)
class Amount:
    count: int
    size: int
    """Bytes of the files, or of the database rows."""


@dataclass(frozen=True)
class Cutoffs:
    """Items older than these times are removed; None keeps them for ever."""

    images: datetime | None
    references: datetime | None
    failed_uploads: datetime | None
    events: datetime | None

    @classmethod
    def at(cls, now: datetime, settings: Settings) -> Self:
        def before(days: int) -> datetime | None:
            return now - timedelta(days=days) if days else None

        return cls(
            images=before(settings.keep_images_days),
            references=before(settings.keep_references_days),
            failed_uploads=before(settings.keep_failed_uploads_days),
            events=before(settings.keep_events_days),
        )


def preview(cutoffs: Cutoffs, session: Session, reference_sizes: Mapping[str, int]) -> dict[str, Amount]:
    """Return what a sweep would remove of each class, and change nothing.

    `reference_sizes` comes from `sizes_of_references`.
    """
    trained, failed = (_references_of(session, concepts) for concepts in (_trained(cutoffs), _never_trained(cutoffs)))
    outdated = [row.concept_id for row in (*trained, *failed)]
    keys = {row.key for row in (*trained, *failed)}
    kept = select(Reference.key).where(Reference.key.in_(keys), Reference.concept_id.not_in(outdated))
    counted = set(session.scalars(kept))  # a reference of another concept too stays for it
    amounts = {"images": _amount_of_images(session, cutoffs)}
    for name, rows in (("references", trained), ("failed_uploads", failed)):
        own = {row.key for row in rows} - counted
        amounts[name] = Amount(len(rows), sum(reference_sizes.get(key, 0) for key in own))
        counted |= own
    return amounts | {"events": _amount_of_events(session, cutoffs)}


def sizes_of_references(storage: Storage) -> dict[str, int]:
    """Return the size of each reference by its key; the rows do not have it. Raises StorageUnavailable."""
    return {entry.key: entry.size for entry in storage.entries("references/")}


def _references_of(session: Session, concepts: Select[UUID] | None) -> Sequence[Row[UUID, str]]:
    if concepts is None:
        return []
    return session.execute(select(Reference.concept_id, Reference.key).where(Reference.concept_id.in_(concepts))).all()


def _amount_of_images(session: Session, cutoffs: Cutoffs) -> Amount:
    if cutoffs.images is None:
        return Amount(0, 0)
    total = func.coalesce(func.sum(Image.size), 0)
    count, size = session.execute(select(func.count(), total).where(Image.created_at < cutoffs.images)).one()
    return Amount(count, int(size))


def _amount_of_events(session: Session, cutoffs: Cutoffs) -> Amount:
    outdated = _events(cutoffs)
    if outdated is None:
        return Amount(0, 0)
    total = func.coalesce(func.sum(func.pg_column_size(literal_column(JobEvent.__tablename__))), 0)
    count, size = session.execute(select(func.count(), total).where(JobEvent.id.in_(outdated))).one()
    return Amount(count, int(size))


def next_sweep(session: Session) -> datetime:
    """Return when the next sweep starts: at three in the morning, or now if today's has not started."""
    now = session.scalars(select(func.now())).one().astimezone(UTC)
    day = _day(now)
    if session.get(RetentionSweep, day) is None:
        return now
    return datetime.combine(day + timedelta(days=1), time(_HOUR_UTC), UTC)


def last_sweep(session: Session) -> RetentionSweep | None:
    """Return the newest sweep that finished."""
    ended = RetentionSweep.finished_at.is_not(None)
    return session.scalar(select(RetentionSweep).where(ended).order_by(RetentionSweep.day.desc()).limit(1))


def _day(now: datetime) -> date:
    """Return the day that a sweep at this time belongs to."""
    return (now - timedelta(hours=_HOUR_UTC)).date()


def sweep(cutoffs: Cutoffs, sessions: Sessions, storage: Storage) -> Outdated:
    """Remove what is older than the cutoffs, and return how much that was. Raises StorageUnavailable."""
    return Outdated(
        images=_repeat(lambda: _sweep_images(cutoffs, sessions, storage)),
        references=_repeat(lambda: _sweep_references(_trained(cutoffs), sessions, storage)),
        failed_uploads=_repeat(lambda: _sweep_references(_never_trained(cutoffs), sessions, storage)),
        events=_repeat(lambda: _sweep_events(cutoffs, sessions)),
    )


def sweep_tonight(settings: Settings, sessions: Sessions, storage: Storage) -> Outdated | None:
    """Run the day's sweep after three in the morning (UTC). Return None if another process has started or done it.

    A sweep that did not finish is started again an hour later.
    """
    with sessions.begin() as session:
        now = session.scalars(select(func.now())).one().astimezone(UTC)
        day = _day(now)
        begun = insert(RetentionSweep).values(day=day)
        abandoned = RetentionSweep.finished_at.is_(None) & (RetentionSweep.started_at < func.now() - _ABANDONED_AFTER)
        mine = session.scalar(
            begun.on_conflict_do_update(
                index_elements=["day"], set_={"started_at": func.now()}, where=abandoned
            ).returning(RetentionSweep.day)
        )
    if mine is None:
        return None
    removed = sweep(Cutoffs.at(now, settings), sessions, storage)
    with sessions.begin() as session:
        session.execute(
            update(RetentionSweep)
            .where(RetentionSweep.day == day)
            .values(finished_at=func.now(), removed=asdict(removed))
        )
        audit.record(session, action="retention.sweep", object_id=None, outcome=removed.sentence(), owner_id=None)
    return removed


def _repeat(step: Callable[[], int]) -> int:
    """Repeat the step until it finds nothing more, and return the total."""
    total = 0
    while count := step():
        total += count
    return total


def _images(cutoffs: Cutoffs) -> Select[UUID, str] | None:
    if cutoffs.images is None:
        return None
    return select(Image.id, Image.key).where(Image.created_at < cutoffs.images)


def _events(cutoffs: Cutoffs) -> Select[int] | None:
    if cutoffs.events is None:
        return None
    over = select(Job.id).where(_has_ended(), Job.finished_at < cutoffs.events)
    return select(JobEvent.id).where(JobEvent.job_id.in_(over))


def _has_ended() -> ColumnElement[bool]:
    return Job.state.in_(FINAL_STATES)


def _trained(cutoffs: Cutoffs) -> Select[UUID] | None:
    if cutoffs.references is None:
        return None
    waits_for_training = is_of_another_base() & obstacle().is_(None)
    return _idle_concepts(cutoffs.references).where(_has_bundle(), ~waits_for_training)


def _never_trained(cutoffs: Cutoffs) -> Select[UUID] | None:
    if cutoffs.failed_uploads is None:
        return None
    return _idle_concepts(cutoffs.failed_uploads).where(~_has_bundle())


def _has_bundle() -> ColumnElement[bool]:
    return select(Bundle.id).where(Bundle.concept_id == Concept.id).exists()


def _idle_concepts(since: datetime) -> Select[UUID]:
    """Select the concepts with references whose jobs had all ended by then."""
    in_use = ~(_has_ended() & (Job.finished_at < since))
    return select(Concept.id).where(
        ~select(Job.id).where(Job.concept_id == Concept.id, in_use).exists(),
        select(Reference.id).where(Reference.concept_id == Concept.id).exists(),
    )


def _sweep_images(cutoffs: Cutoffs, sessions: Sessions, storage: Storage) -> int:
    outdated = _images(cutoffs)
    if outdated is None:
        return 0
    with sessions.begin() as session:
        rows = session.execute(outdated.limit(_BATCH_SIZE).with_for_update(skip_locked=True)).all()
        session.execute(delete(Image).where(Image.id.in_([row.id for row in rows])))
        _delete_objects(storage, [row.key for row in rows])
    return len(rows)


def _sweep_references(concepts: Select[UUID] | None, sessions: Sessions, storage: Storage) -> int:
    """Remove the references of a few concepts. The concepts and their jobs are locked: a request for a new training at
    this moment waits, and then finds no references."""
    if concepts is None:
        return 0
    with sessions.begin() as session:
        session.execute(select(func.pg_advisory_xact_lock(ERASURE)))
        ids = session.scalars(concepts.limit(_BATCH_SIZE // 5).with_for_update(skip_locked=True)).all()
        locked = select(Job.id).where(Job.concept_id.in_(ids)).with_for_update()
        session.execute(locked)
        still = session.scalars(concepts.where(Concept.id.in_(ids))).all()  # a retry may have got the job's lock first
        gone = session.scalars(delete(Reference).where(Reference.concept_id.in_(still)).returning(Reference.key)).all()
        kept = set(session.scalars(select(Reference.key).where(Reference.key.in_(gone))))
        _delete_objects(storage, sorted(set(gone) - kept))
    return len(gone)


def _sweep_events(cutoffs: Cutoffs, sessions: Sessions) -> int:
    outdated = _events(cutoffs)
    if outdated is None:
        return 0
    with sessions.begin() as session:
        some = outdated.limit(10_000).subquery()
        gone = session.scalars(delete(JobEvent).where(JobEvent.id.in_(select(some.c.id))).returning(JobEvent.id))
        return len(gone.all())


def _delete_objects(storage: Storage, keys: Sequence[str]) -> None:
    for key in keys:
        storage.delete(key)
