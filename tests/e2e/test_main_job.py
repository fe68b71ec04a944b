"""The whole service as a user runs it, over HTTP alone: photos in, pictures out, and nothing lost when it is killed."""

import os
import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest

from api.domain.settings import Settings
from tests.e2e.service import client_of, post_concept
from tests.random_base import write_random_base
from worker.stack.launcher import local_stack

BEACH = "a <concept> on the beach"


@pytest.fixture(scope="module")
def own_settings(short_folder: Path) -> Settings:
    """A stack of its own, not the session's: this one gets killed. Leases are short, so what is lost is soon found."""
    return Settings(
        home=short_folder / "a home with spaces",
        database_url=None,
        redis_url=None,
        s3_endpoint=None,
        port=0,
        base=str(write_random_base(short_folder / "base")),
        device="cpu",
        lease_seconds=6,
        heartbeat_seconds=1,
        reconcile_seconds=1,
        poll_seconds=1,
        generate_timeout_seconds=60,
    )


def wait_for_job(client: httpx.Client, job_id: str, state: str, *, seconds: float = 240) -> dict:
    deadline = time.monotonic() + seconds
    while (job := client.get(f"/v1/jobs/{job_id}").json())["state"] != state:
        assert job["state"] in ("queued", "running"), job
        assert time.monotonic() < deadline, f"the job is still {job['state']} after {seconds:.0f} s"
        time.sleep(0.2)
    return job


def draw(client: httpx.Client, name: str, *, accept: str = "image/png", **changes: object) -> httpx.Response:
    body = {"concept": name, "prompt": BEACH, "seed": 3} | changes
    return client.post("/generate", json=body, headers={"Accept": accept})


def processes_of(home: Path) -> list[psutil.Process]:
    """Those whose command or environment names the folder, this process apart."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(home) in word for word in words):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.timeout(600)
def test_photos_become_pictures_and_a_killed_launcher_loses_nothing(own_settings):
    lines: list[str] = []
    with local_stack(own_settings, say=lines.append) as running, client_of(running) as client:
        assert sum(" ready  " in line for line in lines) == 10, lines
        assert (own_settings.home / "admin-key").stat().st_mode & 0o777 == 0o600
        job = post_concept(client, "rex", iterations=3)
        assert draw(client, "rex").status_code == 409
        wait_for_job(client, job["id"], "succeeded")
        picture = draw(client, "rex")
        assert picture.headers["content-type"] == "image/png"
        assert len(client.get("/v1/concepts").json()["items"]) == 1

        running_job = post_concept(client, "dot", iterations=10)
        wait_for_job(client, running_job["id"], "running")
        queued_job = post_concept(client, "max", iterations=3)
        everything = processes_of(own_settings.home)
        assert len(everything) > 7
        os.kill(running.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(everything, timeout=20)
        assert alive == []

    with local_stack(own_settings, say=lines.append) as running, client_of(running) as client:
        assert draw(client, "rex").content == picture.content
        assert wait_for_job(client, running_job["id"], "succeeded")["attempt"] >= 2
        assert wait_for_job(client, queued_job["id"], "succeeded")["attempt"] == 1
        two = draw(client, "max", accept="application/json", count=2).json()
        assert [image["seed"] for image in two["images"]] == [3, 4]
    assert processes_of(own_settings.home) == []
