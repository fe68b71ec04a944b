"""The last lines of a trainer are stored, however it ends."""

import signal
import subprocess
import sys
import time

import pytest

from api.domain import job_log
from api.domain.tables import JobState
from tests.job_life import insert_job, read_job, wait_until
from worker.trainer_log import TrainerLog


def kept(sessions, job_id) -> list[tuple[str, str]]:
    with sessions() as db:
        events = db.scalars(job_log.tail(job_id, 200)).all()
    return [(event.data["level"], event.data["text"]) for event in reversed(events)]


def say(sessions, job_id, program: str) -> subprocess.Popen[bytes]:
    """Run a program in place of the trainer, to its end."""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    assert process.stderr is not None
    with TrainerLog(process.stderr, sessions, job_id, 1):
        process.wait()
    return process


def test_the_last_lines_of_a_killed_process_are_stored_and_passed_on(sessions, capfd):
    job_id = insert_job(sessions, [])
    killed = say(
        sessions,
        job_id,
        "import faulthandler, os, sys; faulthandler.enable(); "
        """print('{"event": "training.began", "level": "info"}', file=sys.stderr, flush=True); os.abort()""",
    )

    assert killed.returncode == -signal.SIGABRT
    assert kept(sessions, job_id)[:2] == [("info", "training.began"), ("output", "Fatal Python error: Aborted")]
    assert "Fatal Python error: Aborted" in capfd.readouterr().err


def test_a_process_that_the_trainer_left_does_not_block_the_host(sessions):
    job_id = insert_job(sessions, [])
    began = time.monotonic()
    say(
        sessions,
        job_id,
        "import subprocess, sys; subprocess.Popen(['sleep', '20']); print('bye', file=sys.stderr)",
    )

    assert kept(sessions, job_id) == [("output", "bye")]
    assert time.monotonic() - began < 15


@pytest.mark.timeout(300)
def test_a_trainings_log_can_be_read_while_it_runs_and_after(quick, sessions, queue_training, start_process):
    job_id = queue_training(iterations=10_000)
    pod = start_process(quick, "worker.one_job")
    wait_until(lambda: read_job(sessions, job_id).step > 0, seconds=240, what="an iteration")
    began = wait_until(lambda: kept(sessions, job_id), seconds=20, what="the first line")
    assert began[0][1].startswith("training.began base=")
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(timeout=60) == 0

    assert read_job(sessions, job_id).state is JobState.queued
    assert kept(sessions, job_id)[-1] == ("info", "job.requeued")
