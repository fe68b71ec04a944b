"""What happens to a job when the programs around it die. Real processes, real servers, a real (tiny) training."""

import io
import signal

import psutil
import pytest
import torch
from PIL import Image
from sqlalchemy import func, select, update

from api.domain import jobs
from api.domain.models import Attempt, Bundle, Checkpoint, Job, JobState, Reference
from api.domain.storage import Storage
from opad_core.bases import load_base
from opad_core.config import override, preset
from opad_core.training import train
from tests.job_life import checkpoints_of, read_job, wait_for_end, wait_until
from worker.slot import trainer_pid
from worker.training.lease import EXIT_LEASE_LOST

LONG = 10_000
"""Iterations of a job that ends by what the test does to it."""


pytestmark = pytest.mark.timeout(600)


def undisturbed_bundle(quick, sessions, job_id) -> bytes:
    job = read_job(sessions, job_id)
    with sessions.begin() as db:
        rows = db.scalars(
            select(Reference).where(Reference.concept_id == job.concept_id).order_by(Reference.position)
        ).all()
    storage = Storage(quick)
    references = [Image.open(io.BytesIO(storage.get(row.key, row.sha256))) for row in rows]
    base = load_base(quick.base, device="cpu")
    config = override(preset("default", base.manifest.presets), job.overrides)
    return train(base, references, "mug", config, seed=7, report=lambda _: None, should_stop=lambda: False)


@pytest.fixture
def one_thread():
    """As the trainer's process has it: the order of a sum depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_killed_trainer_resumes_by_itself_and_makes_the_very_bundle_of_an_undisturbed_training(
    quick, sessions, queue_training, start_process
):
    job_id = queue_training(iterations=6)
    start_process(quick, "worker.host")
    wait_until(lambda: checkpoints_of(sessions, job_id), seconds=240, what="a checkpoint")
    trainer = psutil.Process(wait_until(lambda: trainer_pid(quick.home), seconds=5, what="the trainer's id"))
    trainer.kill()

    assert wait_for_end(sessions, job_id).state is JobState.succeeded
    with sessions.begin() as db:
        attempts = db.scalars(select(Attempt).order_by(Attempt.fence)).all()
        bundle = db.scalars(select(Bundle)).one()
        assert db.scalars(select(Checkpoint)).all() == []
    assert (attempts[0].cause, attempts[0].detail) == ("lost_worker", "the trainer was ended by SIGKILL")
    assert attempts[-1].cause == "succeeded"
    expected = undisturbed_bundle(quick, sessions, job_id)
    assert Storage(quick).get(bundle.key, bundle.sha256) == expected, "exact resume: not a bit of difference"


def test_a_host_asked_to_stop_saves_the_training_and_gives_the_job_back(quick, sessions, queue_training, start_process):
    quick = quick.model_copy(update={"checkpoint_seconds": 3600.0})
    job_id = queue_training(iterations=LONG)
    host = start_process(quick, "worker.host")
    wait_until(lambda: read_job(sessions, job_id).step > 0, seconds=240, what="an iteration")
    host.send_signal(signal.SIGTERM)
    assert host.wait(timeout=60) == 0

    job = read_job(sessions, job_id)
    assert (job.state, job.attempt, job.fence, job.lease_until) == (JobState.queued, 0, 1, None)
    (checkpoint,) = checkpoints_of(sessions, job_id)
    assert checkpoint.step >= job.step


def test_a_killed_host_takes_all_its_processes_along(quick, sessions, queue_training, start_process):
    job_id = queue_training(iterations=LONG)
    host = start_process(quick, "worker.host")
    wait_until(lambda: read_job(sessions, job_id).step > 0, seconds=240, what="an iteration")
    family = psutil.Process(host.pid).children(recursive=True)
    assert any("worker.training.run" in process.cmdline() for process in family)
    assert any("worker.celery_app" in process.cmdline() for process in family)
    host.kill()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert trainer_pid(quick.home) is None


def test_a_frozen_trainer_that_wakes_up_too_late_writes_nothing(quick, sessions, queue_training, start_process):
    job_id = queue_training(iterations=LONG)
    with sessions.begin() as db:
        db.execute(jobs.claim("w1", lease_seconds=120)).one()
    trainer = start_process(quick, "worker.training.run", "--job", str(job_id), "--fence", "1")
    wait_until(lambda: read_job(sessions, job_id).step > 0, seconds=240, what="an iteration")
    trainer.send_signal(signal.SIGSTOP)
    with sessions.begin() as db:
        db.execute(update(Job).values(lease_until=func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 1)))
        db.execute(jobs.expire_leases(lease_seconds=3, max_attempts=5)).one()
        db.execute(update(Job).values(run_after=func.now()))
        db.execute(jobs.claim("w2", lease_seconds=120)).one()
    before, saved = read_job(sessions, job_id), [row.id for row in checkpoints_of(sessions, job_id)]
    trainer.send_signal(signal.SIGCONT)

    assert trainer.wait(timeout=60) in (EXIT_LEASE_LOST, 1), "told by the database, or ended by its own watchdog"
    after = read_job(sessions, job_id)
    assert (after.state, after.fence, after.worker) == (JobState.running, 2, "w2")
    assert (after.step, after.lease_until) == (before.step, before.lease_until)
    assert [row.id for row in checkpoints_of(sessions, job_id)] == saved
