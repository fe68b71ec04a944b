"""PostgreSQL, the object store and the broker die, are away for a while, or give wrong answers."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random
from uuid import UUID

import psutil
import pytest
from sqlalchemy import func, select

from api.domain import jobs
from api.domain.jobs import notify_queue
from api.domain.tables import Attempt, Job, JobState
from tests.faults.conftest import is_frozen
from tests.faults.test_trainer import LONG, causes
from tests.job_life import checkpoints_of, insert_job, read_job, wait_for_end, wait_until
from worker.celery_app import create_app
from worker.reconcile import create_notifier, notify_workers, sweep
from worker.slot import trainer_pid

pytestmark = [pytest.mark.timeout(600), pytest.mark.fault]


def wait_for_words(trainers, words: str, *, seconds: float = 120) -> None:
    wait_until(lambda: words in trainers.output, seconds=seconds, what=words)


@pytest.mark.always
def test_a_training_does_not_notice_a_database_that_is_killed_and_back_within_the_lease(
    servers, queue, sessions, trainers, fail_at, check
):
    job_id = queue()
    fail_at("training.step", "pass", "freeze")
    trainer = trainers.start(*trainers.claim())
    wait_until(lambda: is_frozen(trainer.pid), seconds=120, what="the trainer's freezing")
    servers.kill("postgresql")
    psutil.Process(trainer.pid).send_signal(signal.SIGCONT)
    wait_for_words(trainers, "lease.renewal_failed")
    servers.start("postgresql")
    trainer.join(120)
    assert trainer.exitcode == 0
    assert causes(sessions, job_id) == ["succeeded"]
    check()


def test_a_trainer_stops_by_itself_when_the_database_stays_away_and_another_goes_on(
    servers, queue, quick, sessions, trainers, check
):
    job_id = queue(iterations=LONG)
    short = quick.model_copy(update={"lease_seconds": 4.0})
    job, fence = trainers.claim(lease_seconds=4)
    trainer = trainers.start(job, fence, short)
    wait_until(lambda: checkpoints_of(sessions, job_id), seconds=120, what="a checkpoint")
    servers.kill("postgresql")
    began = time.monotonic()
    trainer.join(30)
    assert trainer.exitcode == 1
    assert time.monotonic() - began < 3.5, "three quarters of its lease"
    servers.start("postgresql")
    wait_until(lambda: sweep(short, sessions) or causes(sessions, job_id)[0], seconds=10, what="the lease's end")
    assert causes(sessions, job_id) == ["lost_worker"]
    with sessions.begin() as db:
        assert db.scalar(jobs.request_cancel(job_id)) is JobState.cancelled
    check()


def test_a_result_waits_for_a_database_that_is_killed_just_before_the_last_commit(
    servers, queue, sessions, trainers, fail_at, check
):
    job_id = queue()
    fail_at("job.ending", "freeze")
    trainer = trainers.start(*trainers.claim())
    wait_until(lambda: is_frozen(trainer.pid), seconds=120, what="the trainer's freezing")
    servers.kill("postgresql")
    psutil.Process(trainer.pid).send_signal(signal.SIGCONT)
    wait_for_words(trainers, "report.retried")
    servers.start("postgresql")
    trainer.join(60)
    assert trainer.exitcode == 0
    assert causes(sessions, job_id) == ["succeeded"]
    check()


def test_a_last_commit_whose_answer_is_lost_counts_once(queue, sessions, trainers, database_wire, check):
    """The trainer tries again and finds that the job is no longer its own. So does the process that claimed it."""
    wire, through_wire = database_wire
    job_id = queue()
    lost = threading.Event()

    def lose_answer(connection, data):
        if b"INSERT INTO bundle" in data:
            connection.seen = b"last"
        return data

    def answer(connection, data):
        if connection.seen == b"last" and b"COMMIT" in data and not lost.is_set():
            lost.set()
            return None
        return data

    wire.on_request, wire.on_answer = lose_answer, answer
    trainers.attempt(through_wire)
    assert lost.is_set()
    assert causes(sessions, job_id) == ["succeeded"]
    check()


def test_a_trainer_cut_off_from_the_database_stops_and_writes_nothing_after(
    queue, quick, sessions, trainers, database_wire, check
):
    wire, through_wire = database_wire
    job_id = queue(iterations=LONG)
    claim = trainers.claim(lease_seconds=4)
    trainer = trainers.start(*claim, through_wire.model_copy(update={"lease_seconds": 4.0}))
    wait_until(lambda: read_job(sessions, job_id).step > 0, seconds=120, what="an iteration")
    wire.freeze()
    trainer.join(30)
    assert trainer.exitcode == 1
    before = read_job(sessions, job_id)
    wire.heal()
    short = quick.model_copy(update={"lease_seconds": 4.0})
    wait_until(lambda: sweep(short, sessions) or causes(sessions, job_id)[0], seconds=10, what="the lease's end")
    assert read_job(sessions, job_id).step == before.step
    with sessions.begin() as db:
        assert db.scalar(jobs.request_cancel(job_id)) is JobState.cancelled
    check()


def test_a_host_that_starts_without_a_database_claims_once_it_is_there(servers, quick, queue, sessions, start_process):
    job_id = queue(iterations=LONG)
    servers.kill("postgresql")
    host = start_process(quick, "worker.host")
    log = quick.home / "processes.log"
    wait_until(lambda: "host.database_unreachable" in log.read_text(), seconds=60, what="a poll in vain")
    servers.start("postgresql")
    wait_until(lambda: read_job(sessions, job_id).state is JobState.running, seconds=30, what="the claim")
    assert host.poll() is None


@pytest.mark.always
def test_a_training_survives_a_store_that_is_killed_before_a_checkpoint_and_gone_when_the_bundle_is_due(
    servers, queue, quick, sessions, trainers, fail_at, check
):
    job_id = queue()
    fail_at("training.step", "pass", "freeze")
    trainer = trainers.start(*trainers.claim())
    wait_until(lambda: is_frozen(trainer.pid), seconds=120, what="the trainer's freezing")
    servers.kill("s3")
    psutil.Process(trainer.pid).send_signal(signal.SIGCONT)
    wait_for_words(trainers, "checkpoint.failed")
    wait_for_words(trainers, "storage.retried")
    lease = read_job(sessions, job_id).lease_until
    wait_until(lambda: read_job(sessions, job_id).lease_until > lease, seconds=30, what="a heartbeat while it waits")
    servers.start("s3")
    trainer.join(120)
    assert trainer.exitcode == 0
    assert causes(sessions, job_id) == ["succeeded"], "an outage of the store costs no attempt"
    check()


def test_a_trainer_that_waits_for_the_store_still_hears_a_wish_to_cancel_and_a_shutdown(
    servers, queue, quick, sessions, trainers
):
    cancelled, stopped = queue(), queue()
    servers.kill("s3")
    first = trainers.start(*trainers.claim())
    wait_for_words(trainers, "storage.retried")
    with sessions.begin() as db:
        db.execute(jobs.request_cancel(cancelled)).one()
    first.join(40)
    assert (first.exitcode, read_job(sessions, cancelled).state) == (0, JobState.cancelled)
    second = trainers.start(*trainers.claim())
    wait_until(
        lambda: any(str(stopped) in line and "storage.retried" in line for line in trainers.output.splitlines()),
        seconds=60,
        what="the second's wait",
    )
    second.terminate()
    second.join(40)
    job = read_job(sessions, stopped)
    assert (second.exitcode, job.state, job.attempt) == (0, JobState.queued, 0)


def test_a_bit_that_flips_on_the_way_from_the_store_costs_a_checkpoint_not_the_training(
    queue, quick, sessions, trainers, s3_wire, fail_at, check
):
    wire, through_wire = s3_wire
    job_id = queue()
    fail_at("checkpoint.committed", "pass", "kill")
    trainers.settings = quick.model_copy(update={"checkpoint_seconds": 0.0})
    trainers.attempt()
    before, newest = sorted(row.step for row in checkpoints_of(sessions, job_id))
    flipped = threading.Event()

    def remember(connection, data):
        if data.startswith(b"GET /") and f"step{newest}-".encode() in data[:200]:
            connection.seen = b"newest"
        return data

    def flip(connection, data):
        if connection.seen == b"newest" and len(data) > 4000:
            connection.seen = b""
            flipped.set()
            return data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]
        return data

    wire.on_request, wire.on_answer = remember, flip
    trainers.see_through(job_id, through_wire)
    assert flipped.is_set()
    assert "checkpoint.unusable" in trainers.output
    assert f'"step": {before}' in next(line for line in trainers.output.splitlines() if "checkpoint.resumed" in line)
    check()


def test_a_store_that_refuses_half_of_the_requests_slows_the_training_down_and_no_more(
    queue, sessions, trainers, s3_wire, check
):
    wire, through_wire = s3_wire
    job_id = queue()
    requests, random = [], Random(0)  # every other request could be the same one of two for ever
    busy = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    def refuse_half(connection, data):
        if data.split(b" ", 1)[0] in (b"GET", b"PUT", b"HEAD", b"POST", b"DELETE"):
            requests.append(random.random() < 0.5)
            if requests[-1]:
                connection.client.sendall(busy)
                return None
        return data

    wire.on_request = refuse_half
    trainers.attempt(through_wire)
    assert len(requests) > 10
    assert any(requests)
    assert causes(sessions, job_id) == ["succeeded"]
    check()


def test_a_killed_broker_disturbs_no_training_and_the_worker_hears_notifications_again_within_a_minute(
    servers, quick, queue, sessions, start_process, notifications
):
    first, second = queue(iterations=LONG), queue(iterations=LONG)
    start_process(quick, "worker.celery_app")
    notify_workers(create_notifier(quick), [(first, "default")])
    wait_until(lambda: read_job(sessions, first).step > 0, seconds=240, what="an iteration")
    for _ in range(5):
        servers.kill("valkey")
        servers.start("valkey")
        step = read_job(sessions, first).step
        wait_until(lambda before=step: read_job(sessions, first).step > before, seconds=30, what="another iteration")
    assert causes(sessions, first) == [None]
    with sessions.begin() as db:
        db.execute(jobs.request_cancel(first)).one()
    assert wait_for_end(sessions, first).state is JobState.cancelled
    began = time.monotonic()
    notify_workers(create_notifier(quick), [(second, "default")])
    wait_until(lambda: read_job(sessions, second).state is JobState.running, seconds=60, what="the second claim")
    print(f"notified after {time.monotonic() - began:.1f} s")
    with sessions.begin() as db:
        db.execute(jobs.request_cancel(second)).one()
    assert wait_for_end(sessions, second).state is JobState.cancelled


@pytest.mark.always
def test_each_of_a_hundred_jobs_runs_once_when_the_broker_loses_all_its_data(
    servers, quick, sessions, start_process, notifications
):
    """Two hosts get the notifications that the reconciler repeats. Their trainings take no time here."""
    waiting = [insert_job(sessions, []) for _ in range(100)]
    notify_workers(create_notifier(quick), [(job_id, "default") for job_id in waiting])
    assert notifications() == 100
    servers.kill("valkey")
    for left in (servers.settings.home / "valkey").glob("appendonlydir/*"):
        left.unlink()
    servers.start("valkey")
    assert notifications() == 0
    start_process(quick, "worker.reconcile")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: take_notified_jobs(quick, sessions, name), ("w1", "w2")))
    with sessions() as db:
        assert db.scalars(select(Job.state).distinct()).all() == [JobState.succeeded]
        assert db.scalar(select(func.count()).select_from(Attempt)) == 100


def take_notified_jobs(settings, sessions, worker: str) -> None:
    """Train the jobs that notifications name until no job waits."""
    app = create_app(settings)
    deadline = time.monotonic() + 120
    with app.connection_for_read() as connection, connection.SimpleQueue(notify_queue("default")) as queue:
        while time.monotonic() < deadline:
            with sessions() as db:
                if not db.scalars(jobs.waiting(1)).all():
                    return
            try:
                message = queue.get(timeout=1)
            except queue.Empty:
                continue
            message.ack()
            ((job_id,), _, _) = message.payload
            with sessions.begin() as db:
                claimed = db.execute(jobs.claim(worker, lease_seconds=60, job_id=UUID(job_id))).one_or_none()
                if claimed:
                    db.execute(jobs.finish(claimed.id, claimed.fence, key=f"{job_id}", sha256="0", size=1)).one()
    pytest.fail("jobs still wait after two minutes")


def test_a_hint_that_comes_five_times_starts_one_training(quick, queue, sessions, start_process, notifications, check):
    job_id = queue()
    notifier = create_notifier(quick)
    for _ in range(5):
        notifier.send_task(jobs.NOTIFY_TASK, [str(job_id)], queue=notify_queue("default"))
    start_process(quick, "worker.celery_app")
    assert wait_for_end(sessions, job_id).state is JobState.succeeded
    wait_until(lambda: notifications() == 0 and trainer_pid(quick.home) is None, seconds=30, what="the last hint's end")
    assert causes(sessions, job_id) == ["succeeded"]
    check()
