import hashlib

import pytest
from sqlalchemy import update

from api.domain.storage import ObjectMissing, Storage, StorageUnavailable
from api.domain.tables import Checkpoint, Job, JobState
from tests.job_life import checkpoints_of
from worker.training.checkpoints import newest_valid_checkpoint, save_checkpoint


@pytest.fixture
def storage(settings):
    return Storage(settings)


@pytest.fixture
def job_id(make_job):
    return make_job(state=JobState.running, fence=1)


def save(storage, sessions, job_id, step, *, fence=1):
    return save_checkpoint(storage, sessions, job_id, fence, step=step, state=f"state {step}".encode())


def test_the_newest_checkpoint_is_resumed(storage, sessions, job_id):
    assert newest_valid_checkpoint(storage, sessions, job_id) is None
    assert save(storage, sessions, job_id, 1)
    assert save(storage, sessions, job_id, 2)
    assert newest_valid_checkpoint(storage, sessions, job_id) == b"state 2"


def test_a_damaged_checkpoint_is_skipped_for_the_previous_one(storage, sessions, job_id):
    save(storage, sessions, job_id, 1)
    save(storage, sessions, job_id, 2)
    with sessions.begin() as db:
        wrong = hashlib.sha256(b"what was written").hexdigest()
        db.execute(update(Checkpoint).where(Checkpoint.step == 2).values(sha256=wrong))
    assert newest_valid_checkpoint(storage, sessions, job_id) == b"state 1"


def test_an_object_without_a_row_is_ignored(storage, sessions, job_id):
    """The trainer was killed between the two writes."""
    save(storage, sessions, job_id, 1)
    storage.put_once(f"jobs/{job_id}/f1/step2.safetensors", b"state 2", hashlib.sha256(b"state 2").hexdigest())
    assert newest_valid_checkpoint(storage, sessions, job_id) == b"state 1"


def test_superseded_objects_are_deleted(storage, sessions, job_id):
    for step in (1, 2, 3):
        save(storage, sessions, job_id, step)
    assert sorted(row.step for row in checkpoints_of(sessions, job_id)) == [2, 3]
    with pytest.raises(ObjectMissing):
        storage.read(f"jobs/{job_id}/f1/step1.safetensors")


def test_a_checkpoint_of_a_trainer_that_lost_its_job_is_ignored(storage, sessions, job_id):
    with sessions.begin() as db:
        db.execute(update(Job).values(fence=2))
    assert not save(storage, sessions, job_id, 9, fence=1)
    assert newest_valid_checkpoint(storage, sessions, job_id) is None


def test_an_outage_of_the_store_loses_a_checkpoint_but_stops_a_resume(settings, sessions, storage, job_id):
    away = Storage(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}))
    assert not save(away, sessions, job_id, 1)
    save(storage, sessions, job_id, 2)
    with pytest.raises(StorageUnavailable):
        newest_valid_checkpoint(away, sessions, job_id)
