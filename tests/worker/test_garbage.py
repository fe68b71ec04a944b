"""Objects that no row names are deleted after a day. Objects that a row names, or is about to name, are kept."""

import hashlib
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from api.domain import jobs
from api.domain.storage import (
    ERASURE,
    Storage,
    bundle_key,
    checkpoint_key,
    job_image_key,
    preview_key,
    reference_key,
)
from api.domain.tables import Concept, Reference
from worker.garbage import collect

NOW = timedelta(seconds=-5)
"""Makes every object old enough to be deleted."""


@pytest.fixture
def storage(settings):
    return Storage(settings)


@pytest.fixture
def put(storage):
    def put_at(key: str) -> str:
        storage.put_once(key, key.encode(), hashlib.sha256(key.encode()).hexdigest())
        return key

    return put_at


@pytest.fixture
def keys(storage):
    return lambda: [entry.key for entry in storage.entries("") if not entry.key.startswith("system/")]


@pytest.fixture
def world(sessions, make_job, put):
    """Store a finished job with its files, a running one with its checkpoint and preview, and garbage."""
    done, running = make_job(), make_job()
    named = [
        put(reference_key("1" * 64)),
        put(bundle_key("2" * 64)),
        put(checkpoint_key(running, 1, 3, "0" * 64)),
        put(preview_key(running, 3)),
        put(job_image_key(done, "5" * 64)),
    ]
    with sessions.begin() as db:
        concept = db.scalars(select(Concept.id)).first()
        db.add(Reference(concept_id=concept, position=1, key=named[0], sha256="1" * 64, width=9, height=9))
        db.execute(jobs.claim("w1", lease_seconds=60, job_id=done)).one()
        db.execute(jobs.finish(done, 1, key=named[1], sha256="2" * 64, size=1)).one()
        db.execute(jobs.claim("w1", lease_seconds=60, job_id=running)).one()
        db.execute(jobs.commit_checkpoint(running, 1, step=3, key=named[2], sha256="0", size=1)).one()
    erased = "01890000-0000-7000-8000-000000000000"
    garbage = [
        put(reference_key("3" * 64)),
        put(checkpoint_key(done, 1, 2, "0" * 64)),
        put(f"jobs/{erased}/previews/1.png"),
        put(f"images/{erased}/x.png"),
    ]
    return running, sorted(named), garbage, put(bundle_key("4" * 64))


def test_objects_younger_than_a_day_are_kept(sessions, storage, world, keys):
    before = keys()
    assert collect(sessions, storage) == 0
    assert keys() == before


def test_unreferenced_objects_are_deleted_but_bundles_only_while_no_job_runs(sessions, storage, world, keys):
    running, named, garbage, lost_bundle = world
    assert collect(sessions, storage, min_age=NOW) == len(garbage)
    assert keys() == sorted([*named, lost_bundle])
    with sessions.begin() as db:
        db.execute(jobs.cancel(running, 1)).one()
    assert collect(sessions, storage, min_age=NOW) == 1
    assert keys() == named


def test_nothing_that_may_get_a_row_is_deleted_during_an_upload(sessions, storage, world, keys):
    _, _, garbage, _ = world
    with sessions.begin() as db:
        db.execute(select(func.pg_advisory_xact_lock_shared(ERASURE)))
        collect(sessions, storage, min_age=NOW)
    assert {garbage[0], garbage[3]} <= set(keys())
    assert garbage[1] not in keys(), "a checkpoint's key cannot get a row later"
