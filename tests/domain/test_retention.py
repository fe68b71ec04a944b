"""Retention: what is removed after its time and what stays. The tests move rows into the past."""

import dataclasses
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, update
from uuid_utils.compat import uuid7

from api.domain import retention
from api.domain.database import Sessions
from api.domain.retention import Amount, Cutoffs, Outdated
from api.domain.settings import Settings
from api.domain.storage import ObjectMissing, Storage, image_key, reference_key
from api.domain.tables import Bundle, Concept, Image, Job, JobEvent, JobState, Reference, RetentionSweep, ServedBase
from tests.job_life import insert_job

DAYS = {"keep_images_days": 10, "keep_references_days": 10, "keep_failed_uploads_days": 10, "keep_events_days": 10}
LONG_AGO, LATELY = timedelta(days=11), timedelta(days=9)


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return Storage(settings)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=DAYS)


@pytest.fixture
def strict(settings: Settings) -> Cutoffs:
    """Cutoffs of every class but events, which have their own test."""
    return dataclasses.replace(Cutoffs.at(datetime.now(UTC), settings), events=None)


@pytest.fixture
def ended_job(sessions: Sessions, storage: Storage) -> Callable[..., UUID]:
    """Add a job that ended so long ago, with a concept that has one reference of these bytes."""

    def make(*, ago: timedelta, photo: bytes, learned: bool, **columns: object) -> UUID:
        sha256 = _put(storage, reference_key, photo)
        photos = [Reference(position=1, key=reference_key(sha256), sha256=sha256, width=64, height=64)]
        state = JobState.succeeded if learned else JobState.failed
        job_id = insert_job(sessions, photos, state=state, **columns)
        with sessions.begin() as db:
            db.execute(update(Job).where(Job.id == job_id).values(finished_at=func.now() - ago))
            concept_id = db.get_one(Job, job_id).concept_id
            if learned:
                db.add(Bundle(job_id=job_id, concept_id=concept_id, version=1, key="b", sha256="0" * 64, size=1))
        return job_id

    return make


def _put(storage: Storage, key_of: Callable[[str], str], data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    storage.put_once(key_of(sha256), data, sha256)
    return sha256


def references_left(sessions: Sessions, job_id: UUID) -> int:
    with sessions() as db:
        concept_id = db.get_one(Job, job_id).concept_id
        return db.scalar(select(func.count()).where(Reference.concept_id == concept_id)) or 0


def is_stored(storage: Storage, photo: bytes) -> bool:
    try:
        storage.require(reference_key(hashlib.sha256(photo).hexdigest()))
    except ObjectMissing:
        return False
    return True


def test_references_are_removed_after_their_time_and_not_before(strict, sessions, storage, ended_job):
    old = ended_job(ago=LONG_AGO, photo=b"old", learned=True)
    new = ended_job(ago=LATELY, photo=b"new", learned=True)
    failed = ended_job(ago=LONG_AGO, photo=b"failed", learned=False)
    shared = ended_job(ago=LONG_AGO, photo=b"new", learned=True)

    with sessions() as db:
        assert retention.preview(strict, db, retention.sizes_of_references(storage)) == {
            "images": Amount(0, 0),
            "references": Amount(2, 3),  # b"old"; b"new" stays for the other concept
            "failed_uploads": Amount(1, 6),
            "events": Amount(0, 0),
        }
    assert retention.sweep(strict, sessions, storage) == Outdated(references=2, failed_uploads=1)
    assert [references_left(sessions, job_id) for job_id in (old, new, failed, shared)] == [0, 1, 0, 0]
    assert [is_stored(storage, photo) for photo in (b"old", b"new", b"failed")] == [False, True, False]
    assert retention.sweep(strict, sessions, storage) == Outdated()


def test_concepts_without_references_do_not_hide_the_one_that_has_some(strict, sessions, storage, ended_job):
    """A sweep reads concepts in batches of ten, and a batch without references must not end it."""
    for _ in range(11):
        insert_job(sessions, [], state=JobState.failed, finished_at=datetime.now(UTC) - LONG_AGO)
    job_id = ended_job(ago=LONG_AGO, photo=b"last", learned=False)

    assert retention.sweep(strict, sessions, storage) == Outdated(failed_uploads=1)
    assert references_left(sessions, job_id) == 0


def test_a_bundle_of_another_concept_makes_no_concept_trained(strict, sessions, storage, ended_job):
    ended_job(ago=LONG_AGO, photo=b"first", learned=False)
    ended_job(ago=LATELY, photo=b"second", learned=True)

    assert retention.sweep(strict, sessions, storage) == Outdated(failed_uploads=1)


@pytest.mark.parametrize("days", [0, 10], ids=["kept for ever", "nothing is old"])
def test_where_nothing_goes_the_preview_says_zero(settings, sessions, days):
    settings = settings.model_copy(update=dict.fromkeys(DAYS, days))
    with sessions() as db:
        amounts = retention.preview(Cutoffs.at(datetime.now(UTC), settings), db, {})
    assert amounts == dict.fromkeys(("images", "references", "failed_uploads", "events"), Amount(0, 0))


def test_references_that_a_training_needs_stay(strict, sessions, storage, ended_job):
    job_id = ended_job(ago=LONG_AGO, photo=b"again", learned=False)
    with sessions.begin() as db:
        concept_id = db.get_one(Job, job_id).concept_id
        owner_id = db.get_one(Job, job_id).owner_id
        db.add(Job(owner_id=owner_id, concept_id=concept_id, version=2, preset="default", seed=1))

    assert retention.sweep(strict, sessions, storage) == Outdated()
    assert references_left(sessions, job_id) == 1


@pytest.mark.parametrize(("known", "removed"), [(["robot"], 0), (None, 0), (["cat"], 1)])
def test_references_of_a_replaced_base_stay_while_the_concept_can_be_trained_again(
    strict, sessions, storage, ended_job, known, removed
):
    job_id = ended_job(ago=LONG_AGO, photo=b"needed", learned=True)
    with sessions.begin() as db:
        db.execute(update(Bundle).values(base_sha256="0" * 64))
        db.execute(update(Concept).values(class_noun="robot"))
        db.add(ServedBase(name="nano", resolution=64, nouns=known, manifest_sha256="1" * 64))

    with sessions() as db:
        assert retention.preview(strict, db, {})["references"].count == removed
    assert retention.sweep(strict, sessions, storage) == Outdated(references=removed)
    assert references_left(sessions, job_id) == 1 - removed


def test_stored_images_are_removed_with_their_files(strict, sessions, storage, ended_job):
    job_id = ended_job(ago=LATELY, photo=b"p", learned=True)
    with sessions.begin() as db:
        job = db.get_one(Job, job_id)
        for ago in (LONG_AGO, LATELY):
            image_id = uuid7()
            key = image_key(job.concept_id, image_id, "png")
            sha256 = _put(storage, lambda _, key=key: key, image_id.bytes)
            db.add(
                Image(id=image_id, owner_id=job.owner_id, concept_id=job.concept_id, version=1, prompt="a", seed=1,
                      format="png", key=key, sha256=sha256, size=16, created_at=func.now() - ago)
            )  # fmt: skip

    with sessions() as db:
        assert retention.preview(strict, db, {})["images"] == Amount(1, 16)
    assert retention.sweep(strict, sessions, storage) == Outdated(images=1)
    with sessions() as db:
        (kept,) = db.scalars(select(Image)).all()
    storage.require(kept.key)
    assert len(list(storage.entries("images/"))) == 1


def test_events_of_jobs_long_over_go(settings, sessions, storage, ended_job):
    old = ended_job(ago=LONG_AGO, photo=b"p", learned=True)
    with sessions.begin() as db:
        before = db.scalar(select(func.count()).where(JobEvent.job_id == old))
        db.execute(update(Job).where(Job.id == old).values(step=5))
    late = ended_job(ago=LATELY, photo=b"q", learned=True)
    assert before

    cutoffs = Cutoffs.at(datetime.now(UTC), settings)
    with sessions() as db:
        expected = retention.preview(cutoffs, db, {})["events"]
    removed = retention.sweep(cutoffs, sessions, storage)

    assert removed.events == expected.count >= before
    assert expected.size > 40 * expected.count  # a row's header, id and key alone take as much
    with sessions() as db:
        left = set(db.scalars(select(JobEvent.job_id)))
    assert left == {late}


def test_the_next_sweep_is_at_three_in_the_morning_or_now_when_todays_is_due(settings, sessions, storage):
    with sessions() as db:
        now = db.scalars(select(func.now())).one()
        assert retention.next_sweep(db) == now
        assert retention.last_sweep(db) is None

    retention.sweep_tonight(settings, sessions, storage)

    with sessions() as db:
        due = retention.next_sweep(db)
        assert now < due <= now + timedelta(days=1)
        assert (due.hour, due.minute) == (3, 0)
        last = retention.last_sweep(db)
        assert isinstance(last, RetentionSweep)
        assert last.removed == {"images": 0, "references": 0, "failed_uploads": 0, "events": 0}
