"""What happens to a job when programs die, with real processes, real servers and a real, tiny training."""

import signal
import threading
import time

import psutil
import pytest
from sqlalchemy import func, select, update

from api.domain import jobs
from api.domain.tables import Attempt, Bundle, Checkpoint, Job, JobState, WebhookDelivery
from tests.faults.conftest import is_frozen
from tests.faults.invariants import objects
from tests.job_life import checkpoints_of, read_job, wait_for_end, wait_until
from worker.reconcile import create_notifier, notify_workers, sweep
from worker.slot import trainer_pid
from worker.training.lease import EXIT_LEASE_LOST

LONG = 10_000
"""Iterations of a job that is still running when the test ends it."""

pytestmark = [pytest.mark.timeout(600), pytest.mark.fault]


def causes(sessions, job_id):
    with sessions() as db:
        return list(db.scalars(select(Attempt.cause).where(Attempt.job_id == job_id).order_by(Attempt.fence)))


def wait_for_frozen_trainer(settings) -> psutil.Process:
    """Return the trainer of the host after it has reached the failpoint."""
    pid = wait_until(lambda: trainer_pid(settings.home), seconds=240, what="the trainer's id")
    wait_until(lambda: is_frozen(pid), seconds=240, what="the trainer's freezing")
    return psutil.Process(pid)


@pytest.mark.always
def test_a_killed_trainer_resumes_by_itself_and_makes_the_very_bundle_of_an_undisturbed_training(
    quick, sessions, queue, start_process, fail_at, check
):
    job_id = queue()
    fail_at("checkpoint.committed", "freeze")
    start_process(quick, "worker.host")
    trainer = wait_for_frozen_trainer(quick)
    assert checkpoints_of(sessions, job_id)
    trainer.kill()

    assert wait_for_end(sessions, job_id).state is JobState.succeeded
    with sessions.begin() as db:
        attempts = db.scalars(select(Attempt).order_by(Attempt.fence)).all()
    assert (attempts[0].cause, attempts[0].detail) == ("lost_worker", "the trainer was killed by SIGKILL")
    assert attempts[-1].cause == "succeeded"
    wait_until(lambda: trainer_pid(quick.home) is None, seconds=10, what="the trainer's end")
    check()


@pytest.mark.always
def test_a_trainer_killed_after_each_of_its_checkpoints_makes_the_very_bundle_of_an_undisturbed_training(
    quick, sessions, queue, trainers, fail_at, check
):
    """Each attempt stores the state after its first iteration, and dies during a later one."""
    job_id = queue()
    fail_at("checkpoint.committed", "always kill")
    each_one = quick.model_copy(update={"checkpoint_seconds": 0.0, "max_attempts": 20})
    trainers.settings = each_one
    assert trainers.see_through(job_id).state is JobState.succeeded
    assert causes(sessions, job_id) == ["lost_worker"] * 6 + ["succeeded"]
    with sessions.begin() as db:
        db.execute(update(Job).values(attempt=1))  # undo the higher limit that this job had
    check()


def test_a_trainer_killed_between_a_checkpoints_object_and_its_row_goes_on_from_the_one_before(
    quick, sessions, queue, trainers, fail_at, check
):
    job_id = queue()
    fail_at("checkpoint.stored", "pass", "kill")
    trainers.settings = quick.model_copy(update={"checkpoint_seconds": 0.0})
    assert trainers.attempt() == -signal.SIGKILL
    assert [row.step for row in checkpoints_of(sessions, job_id)] == [1]
    assert len(objects(quick, f"jobs/{job_id}/f1/")) == 2, "the second has no row, so it does not count"
    trainers.see_through(job_id)
    assert '"step": 1' in next(line for line in trainers.output.splitlines() if "checkpoint.resumed" in line)
    check()


@pytest.mark.always
def test_a_training_goes_on_while_its_checkpoint_is_stored(sessions, queue, trainers, fail_at, check):
    job_id = queue()
    waiting = fail_at("checkpoint.stored", "wait")
    trainer = trainers.start(*trainers.claim())
    wait_until(lambda: read_job(sessions, job_id).step == 6, seconds=120, what="the last iteration")
    assert checkpoints_of(sessions, job_id) == []
    waiting.unlink()
    trainer.join(120)
    assert trainer.exitcode == 0
    assert causes(sessions, job_id) == ["succeeded"]
    check()


def test_a_slow_trainer_keeps_its_job_during_an_iteration_longer_than_the_lease(
    quick, sessions, queue, trainers, fail_at, check
):
    job_id = queue()
    waiting = fail_at("training.step", "pass", "wait")
    claim = trainers.claim(lease_seconds=4)
    trainer = trainers.start(*claim, quick.model_copy(update={"lease_seconds": 4.0}))
    wait_until(lambda: waiting.read_text() == "", seconds=120, what="the second iteration")
    first_lease = read_job(sessions, job_id).lease_until

    def has_outlived_it() -> bool:
        with sessions() as db:
            return db.scalar(select(func.clock_timestamp())) > first_lease

    wait_until(has_outlived_it, seconds=30, what="the end of the first lease")
    with sessions.begin() as db:
        assert db.execute(jobs.expire_leases(lease_seconds=4, max_attempts=5)).all() == []
    waiting.unlink()
    trainer.join(120)
    assert trainer.exitcode == 0
    assert causes(sessions, job_id) == ["succeeded"]
    check()


def test_a_trainer_asked_to_stop_during_an_upload_stores_its_last_state_after_it(
    quick, sessions, queue, trainers, fail_at
):
    job_id = queue(iterations=LONG)
    waiting = fail_at("checkpoint.stored", "wait")
    trainer = trainers.start(*trainers.claim())
    wait_until(lambda: objects(quick, f"jobs/{job_id}/f1/"), seconds=120, what="the upload")
    reached = read_job(sessions, job_id).step
    wait_until(lambda: read_job(sessions, job_id).step > reached, seconds=120, what="another iteration")
    trainer.terminate()
    lease = read_job(sessions, job_id).lease_until
    wait_until(lambda: read_job(sessions, job_id).lease_until > lease, seconds=30, what="a heartbeat while it waits")
    assert (trainer.exitcode, checkpoints_of(sessions, job_id)) == (None, [])
    waiting.unlink()
    trainer.join(60)
    assert (trainer.exitcode, read_job(sessions, job_id).state) == (0, JobState.queued)
    first, last = sorted(checkpoints_of(sessions, job_id), key=lambda row: row.created_at)
    assert first.step < last.step == read_job(sessions, job_id).step


@pytest.mark.always
def test_a_cancelled_trainer_does_not_wait_for_an_upload_that_hangs(quick, sessions, queue, trainers, fail_at):
    job_id = queue(iterations=LONG)
    fail_at("checkpoint.stored", "wait")
    trainer = trainers.start(*trainers.claim())
    wait_until(lambda: objects(quick, f"jobs/{job_id}/f1/"), seconds=120, what="the upload")
    with sessions.begin() as db:
        db.execute(jobs.request_cancel(job_id)).one()
    trainer.join(30)
    assert (trainer.exitcode, read_job(sessions, job_id).state) == (0, JobState.cancelled)
    assert "upload.abandoned" in trainers.output
    assert checkpoints_of(sessions, job_id) == []


def test_a_trainer_killed_in_the_middle_of_an_upload_leaves_nothing_that_counts(
    quick, sessions, queue, trainers, s3_wire, check
):
    wire, through_wire = s3_wire
    job_id = queue()
    half_sent = threading.Event()

    def stop_half_way(connection, data):
        if data.startswith((b"GET /", b"PUT /", b"HEAD /")):
            connection.seen = b""
        connection.seen += data
        if connection.seen.startswith(b"PUT /") and b"/f1/" in connection.seen[:200] and len(connection.seen) > 50_000:
            wire.freeze()
            half_sent.set()
        return data

    wire.on_request = stop_half_way
    trainer = trainers.start(*trainers.claim(), through_wire)
    assert half_sent.wait(120)
    trainer.kill()
    trainer.join()
    wire.close()
    assert objects(quick, f"jobs/{job_id}/f1/") == []
    with sessions.begin() as db:
        db.execute(jobs.lose_attempts_of("w1", lease_seconds=12, max_attempts=5)).one()
    trainers.see_through(job_id)
    check()


def test_a_trainer_killed_between_the_bundles_object_and_its_row_stores_it_once(
    quick, sessions, queue, trainers, fail_at, check
):
    job_id = queue()
    fail_at("bundle.stored", "kill")
    assert trainers.attempt() == -signal.SIGKILL
    before = objects(quick, "bundles/")
    trainers.see_through(job_id)
    assert objects(quick, "bundles/") == before, "the same bytes have the same key"
    check()


def test_a_trainer_killed_after_the_last_commit_has_succeeded_and_the_owner_is_told(
    quick, sessions, queue, trainers, fail_at, check
):
    job_id = queue()
    fail_at("job.ended", "kill")
    assert trainers.attempt() == -signal.SIGKILL
    assert causes(sessions, job_id) == ["succeeded"], "what its claimer reports comes too late to matter"
    with sessions() as db:
        assert db.execute(select(WebhookDelivery.event, WebhookDelivery.state)).all() == [("job.succeeded", "pending")]
    check()


def test_a_killed_celery_worker_takes_the_trainer_along_and_the_next_one_goes_on(
    quick, sessions, queue, start_process, notifications, fail_at, check
):
    job_id = queue()
    fail_at("training.step", "pass", "pass", "freeze")
    worker = start_process(quick, "worker.celery_app")
    notify_workers(create_notifier(quick), [(job_id, "default")])
    wait_for_frozen_trainer(quick)
    family = psutil.Process(worker.pid).children(recursive=True)
    assert len(family) == 2, "the pool's child and the trainer"
    worker.kill()
    assert psutil.wait_procs(family, timeout=10)[1] == []

    start_process(quick, "worker.celery_app")
    start_process(quick, "worker.reconcile")
    assert wait_for_end(sessions, job_id).state is JobState.succeeded
    assert causes(sessions, job_id)[0] == "lost_worker"
    wait_until(lambda: trainer_pid(quick.home) is None, seconds=10, what="the trainer's end")
    check()


@pytest.mark.always
def test_a_host_asked_to_stop_saves_the_training_and_gives_the_job_back(quick, sessions, queue, start_process):
    quick = quick.model_copy(update={"checkpoint_seconds": 3600.0})
    job_id = queue(iterations=LONG)
    host = start_process(quick, "worker.host")
    wait_until(lambda: read_job(sessions, job_id).step > 0, seconds=240, what="an iteration")
    host.send_signal(signal.SIGTERM)
    assert host.wait(timeout=60) == 0

    job = read_job(sessions, job_id)
    assert (job.state, job.attempt, job.fence, job.lease_until) == (JobState.queued, 0, 1, None)
    (checkpoint,) = checkpoints_of(sessions, job_id)
    assert checkpoint.step >= job.step


def test_a_killed_host_takes_all_its_processes_along(quick, sessions, queue, start_process):
    job_id = queue(iterations=LONG)
    host = start_process(quick, "worker.host")
    wait_until(lambda: read_job(sessions, job_id).step > 0, seconds=240, what="an iteration")
    family = psutil.Process(host.pid).children(recursive=True)
    assert any("worker.training" in process.cmdline() for process in family)
    assert any("worker.celery_app" in process.cmdline() for process in family)
    host.kill()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert trainer_pid(quick.home) is None


def test_a_host_killed_between_the_claim_and_the_trainers_start_gives_the_job_back_when_it_returns(
    quick, sessions, queue, start_process, fail_at
):
    job_id = queue(iterations=LONG)
    fail_at("job.claimed", "kill", "kill")
    assert start_process(quick, "worker.host").wait(timeout=60) == -signal.SIGKILL
    assert read_job(sessions, job_id).state is JobState.running
    again = start_process(quick, "worker.host")
    wait_until(lambda: causes(sessions, job_id)[0] == "lost_worker", seconds=30, what="the job's return")
    assert read_job(sessions, job_id).attempt <= 2, "at once, not when the lease of a minute has run out"
    again.kill()


@pytest.mark.always
def test_a_frozen_trainer_that_wakes_up_after_another_took_over_writes_nothing(
    quick, sessions, queue, trainers, fail_at, check
):
    queue()
    fail_at("training.step", "pass", "freeze")
    frozen = trainers.start(*trainers.claim("w1"))
    wait_until(lambda: is_frozen(frozen.pid), seconds=120, what="the trainer's freezing")
    with sessions.begin() as db:
        db.execute(update(Job).values(lease_until=func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 1)))
    sweep(quick, sessions)
    second = trainers.start(*trainers.claim("w2"))
    second.join(120)
    assert second.exitcode == 0
    with sessions() as db:
        before = [db.execute(select(*table.__table__.columns)).all() for table in (Job, Attempt, Bundle, Checkpoint)]
    stored = objects(quick)
    psutil.Process(frozen.pid).send_signal(signal.SIGCONT)
    frozen.join(60)
    assert frozen.exitcode in (EXIT_LEASE_LOST, 1), "told by the database, or ended by its own watchdog"
    with sessions() as db:
        after = [db.execute(select(*table.__table__.columns)).all() for table in (Job, Attempt, Bundle, Checkpoint)]
    assert after == before
    assert [key for key in objects(quick) if key not in stored and "/f1/" not in key] == []
    check()


def test_a_wish_to_cancel_ends_the_trainer_within_ten_seconds_and_an_iteration(quick, sessions, queue, trainers, check):
    job_id = queue(iterations=LONG)
    trainer = trainers.start(*trainers.claim())
    wait_until(lambda: read_job(sessions, job_id).eta_seconds, seconds=120, what="a measured time left")
    with sessions.begin() as db:
        began, eta = time.monotonic(), read_job(sessions, job_id).eta_seconds
        db.execute(jobs.request_cancel(job_id)).one()
    trainer.join(10 + eta / LONG)
    assert trainer.exitcode == 0, "its memory is the system's again"
    assert time.monotonic() - began < 10 + eta / LONG
    assert read_job(sessions, job_id).state is JobState.cancelled
    assert len(checkpoints_of(sessions, job_id)) > 0, "a retry goes on from here"
    check()
