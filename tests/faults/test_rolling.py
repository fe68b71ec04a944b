"""Every program is replaced in turn during uploads. Nothing is refused and nothing is lost."""

import signal
import threading
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, select

from api.domain.tables import Attempt, Job, JobState
from tests.faults.test_api import FILES
from tests.job_life import ENDED, read_job, wait_until
from worker.stack.servers import free_ports

pytestmark = [pytest.mark.timeout(600), pytest.mark.fault]

TRAINED = 3
"""Number of jobs to train. The others are cancelled to keep the test short."""


class Load(threading.Thread):
    """Uploads one after the other, to any api that accepts connections."""

    def __init__(self, ports: list[int], key: str) -> None:
        super().__init__()
        self.ports, self.key = ports, key
        self.accepted: list[dict] = []
        self.refused: list[str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.enough.is_set():
            number += 1
            answer = self._ask("POST", "/v1/concepts", f"order-{number}", files=FILES,
                               data={"name": f"mug {number}", "class_noun": "mug", "consent": "true",
                                     "overrides": '{"iterations": 4, "collaborative_iterations": 2}'})  # fmt: skip
            if answer.status_code != 202:
                self.refused.append(answer.text)
                continue
            job = answer.json()["job"]
            self.accepted.append(job)
            if number > TRAINED:
                self._ask("POST", f"/v1/jobs/{job['id']}/cancel", f"cancel-{number}")

    def _ask(self, method: str, path: str, key: str, **body) -> httpx.Response:
        """Send to the next api if one has stopped, like a client behind a load balancer."""
        headers = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": key}
        for turn in range(200):
            url = f"http://127.0.0.1:{self.ports[turn % len(self.ports)]}{path}"
            try:
                return httpx.request(method, url, headers=headers, timeout=60, **body)
            except httpx.TransportError:
                self.enough.wait(0.05)
        raise AssertionError("no api takes connections")


def test_replacing_every_program_under_load_refuses_nothing_and_loses_nothing(
    start_api,
    admin_key,
    quick,
    sessions,
    start_process,
):
    ports = free_ports(2)
    api_settings = [quick.model_copy(update={"port": port}) for port in ports]
    apis = [start_api(settings) for settings in api_settings]
    host, reconciler = start_process(quick, "worker.host"), start_process(quick, "worker.reconcile")
    load = Load(ports, admin_key)
    load.start()
    try:
        wait_until(lambda: any(job.step for job in first_jobs(sessions)), seconds=120, what="an iteration")
        for _ in range(2):
            for position, settings in enumerate(api_settings):
                apis[position].send_signal(signal.SIGTERM)
                assert apis[position].wait(30) in (0, -signal.SIGTERM), "uvicorn raises it again once it has stopped"
                apis[position] = start_api(settings)
            host.send_signal(signal.SIGTERM)
            reconciler.send_signal(signal.SIGTERM)
            assert (host.wait(60), reconciler.wait(30)) == (0, 0)
            host, reconciler = start_process(quick, "worker.host"), start_process(quick, "worker.reconcile")
    finally:
        load.enough.set()
        load.join()
    assert load.refused == []
    assert len(load.accepted) > TRAINED
    for job in load.accepted:
        wait_until(lambda job=job: read_job(sessions, UUID(job["id"])).state in ENDED, seconds=240, what="a job's end")
    with sessions() as db:
        assert db.scalar(select(func.count()).select_from(Job)) == len(load.accepted)
        states = db.scalars(select(Job.state).order_by(Job.id)).all()
        assert states[:TRAINED] == [JobState.succeeded] * TRAINED
        assert set(states[TRAINED:]) <= {JobState.cancelled, JobState.succeeded}
        assert set(db.scalars(select(Attempt.cause))) <= {"succeeded", "shutdown", "cancelled"}, "no attempt was lost"


def first_jobs(sessions) -> list[Job]:
    with sessions() as db:
        return list(db.scalars(select(Job).order_by(Job.id).limit(TRAINED)))
