"""Every cause that can end an attempt, and what a retry does."""

import hashlib
import signal

import pytest
from sqlalchemy import select, update

from api.domain import jobs
from api.domain.storage import Storage, reference_key
from api.domain.tables import Attempt, JobState, Reference
from tests.faults.test_trainer import causes
from tests.job_life import checkpoints_of, read_job

pytestmark = [pytest.mark.timeout(600), pytest.mark.fault]


def replace_references(sessions, storage, job_id, data: bytes | None) -> None:
    """Replace the references of the job's concept, with the correct hash. None deletes the objects."""
    with sessions.begin() as db:
        for row in db.scalars(select(Reference)):
            if data is None:
                storage.delete(row.key)
            else:
                sha256 = hashlib.sha256(data).hexdigest()
                storage.put_once(reference_key(sha256), data, sha256)
                row.key, row.sha256 = reference_key(sha256), sha256


def test_memory_that_runs_out_once_costs_an_attempt_and_twice_the_job(quick, sessions, queue, trainers, fail_at, check):
    once, twice = queue(), queue()
    fail_at("training.step", "oom")
    assert trainers.see_through(once).state is JobState.succeeded
    assert causes(sessions, once) == ["oom", "succeeded"]
    fail_at("training.step", "oom", "pass", "oom")
    job = trainers.see_through(twice)
    assert causes(sessions, twice) == ["oom", "oom"]
    assert (job.state, job.error_code) == (JobState.failed, "oom")
    assert job.error_detail == "all 2 attempts failed; the last one: failpoint training.step"
    check()


def test_memory_that_runs_out_in_the_thread_of_a_checkpoint_costs_an_attempt(
    quick, sessions, queue, trainers, fail_at, check
):
    job_id = queue()
    fail_at("checkpoint.stored", "oom")
    trainers.settings = quick.model_copy(update={"checkpoint_seconds": 0.0})
    assert trainers.see_through(job_id).state is JobState.succeeded
    assert causes(sessions, job_id) == ["oom", "succeeded"]
    check()


@pytest.mark.always
def test_what_another_attempt_would_meet_again_ends_the_job_at_the_first_with_its_cause(
    quick, sessions, queue, trainers, fail_at
):
    def end(**columns):
        job_id = queue(**columns)
        trainers.see_through(job_id)
        job = read_job(sessions, job_id)
        assert (job.state, job.attempt) == (JobState.failed, 1)
        assert causes(sessions, job_id) == [job.error_code]
        return job

    fail_at("training.step", "break")
    assert end().error_code == "internal"
    diverged = end(overrides={"iterations": 40, "collaborative_iterations": 1, "lr_student": 1e6, "lr_teacher": 1e6})
    assert diverged.error_code == "diverged"
    assert "try other photos or lower learning rates" in diverged.error_detail
    job_id = queue()
    replace_references(sessions, Storage(quick), job_id, b"\x89PNG\r\n\x1a\n and no image")
    bad = trainers.see_through(job_id)
    assert (bad.state, bad.error_code) == (JobState.failed, "bad_image")
    assert "create the concept again with another photo" in bad.error_detail
    job_id = queue()
    replace_references(sessions, Storage(quick), job_id, None)
    gone = trainers.see_through(job_id)
    assert (gone.state, gone.error_code) == (JobState.failed, "storage")


def test_a_job_that_kills_each_of_its_trainers_ends_after_the_last_attempt_and_harms_no_other(
    quick, sessions, queue, trainers, fail_at, check
):
    """A retry continues from the last checkpoint."""
    poison = queue()
    fail_at("checkpoint.committed", "always segfault")
    trainers.settings = quick.model_copy(update={"checkpoint_seconds": 0.0, "max_attempts": 3})
    pauses = []
    while read_job(sessions, poison).state is JobState.queued:
        assert trainers.attempt() == -signal.SIGSEGV
        job = read_job(sessions, poison)
        with sessions() as db:
            ended = db.scalar(select(Attempt.ended_at).where(Attempt.fence == job.fence))
        pauses.append(round((job.run_after - ended).total_seconds()))
    assert pauses == [2, 4, 8], "a sixth of the lease, doubled each time"
    assert (job.state, job.error_code, job.attempt) == (JobState.failed, "lost_worker", 3)
    assert job.error_detail.endswith("the last one: the trainer was killed by SIGSEGV")

    fail_at("checkpoint.committed")
    assert trainers.see_through(queue()).state is JobState.succeeded
    reached = max(row.step for row in checkpoints_of(sessions, poison))
    with sessions.begin() as db:
        assert db.scalar(jobs.retry(poison)) is JobState.queued
    job = trainers.see_through(poison)
    assert (job.state, job.attempt) == (JobState.succeeded, 1)
    assert f'"step": {reached}' in [line for line in trainers.output.splitlines() if "checkpoint.resumed" in line][-1]
    check()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(quick, sessions, queue, trainers, fail_at, check):
    job_id = queue()
    fail_at("checkpoint.committed", "pass", "kill")
    trainers.settings = quick.model_copy(update={"checkpoint_seconds": 0.0})
    trainers.attempt()
    newest, before = sorted(checkpoints_of(sessions, job_id), key=lambda row: -row.step)
    with sessions.begin() as db:
        db.execute(update(type(newest)).where(type(newest).id == newest.id).values(sha256="0" * 64))
    trainers.see_through(job_id)
    assert "checkpoint.unusable" in trainers.output
    assert f'"step": {before.step}' in next(line for line in trainers.output.splitlines() if "resumed" in line)
    check()
