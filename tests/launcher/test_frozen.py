"""A frozen process accepts requests and does not answer: what a client of `opad up` sees meanwhile and afterwards.

The client waits 20 s for an answer. Each test ends its freeze itself, so an answer that needs the thawed process would
come too late.
"""

import os
import resource
import signal
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.api.reference_images import reference
from tests.e2e.service import client_of, post_concept
from tests.e2e.test_main_job import wait_for_job
from tests.launcher.conftest import child

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]
PATIENCE = 20.0


@contextmanager
def frozen(*roots: psutil.Process) -> Iterator[None]:
    """Freeze each process with its children, like a machine that stops."""
    processes = [process for root in roots for process in (root, *root.children(recursive=True))]
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def client(up) -> Iterator[httpx.Client]:
    running, _, _ = up
    with client_of(running) as opened:
        wait_for_job(opened, post_concept(opened, "learned", iterations=1)["id"], "succeeded")
        draw(opened).raise_for_status()
        wait_for_job(opened, upload(opened, "never drawn").json()["job"]["id"], "succeeded")
        opened.timeout = httpx.Timeout(PATIENCE)
        yield opened


def draw(client: httpx.Client, name: str = "learned") -> httpx.Response:
    return client.post("/v1/generate", json={"concept": name, "prompt": "<concept>", "seed": 3})


def upload(client: httpx.Client, name: str) -> httpx.Response:
    """Send new photos, because the store is not asked to write an existing object; the same ones each time."""
    first = zlib.crc32(name.encode()) % 1000
    return client.post(
        "/v1/concepts",
        data={"name": name, "class_noun": "dog", "consent": "true", "seed": "7",
              "overrides": '{"iterations": 1, "collaborative_iterations": 1}'},
        files=[("images", (f"{number}.jpg", reference(first + number), "image/jpeg")) for number in range(3)],
        headers={"Idempotency-Key": name},
    )  # fmt: skip


def assert_refused(answer: httpx.Response, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, code)
    assert int(answer.headers["Retry-After"]) > 0


def assert_is_once(client: httpx.Client, name: str) -> None:
    """Repeat the upload as the response said. It makes one concept, which is learned."""
    job = upload(client, name).raise_for_status().json()["job"]
    assert [item["name"] for item in client.get("/v1/concepts").json()["items"]].count(name) == 1
    wait_for_job(client, job["id"], "succeeded")


@pytest.mark.always
def test_with_a_frozen_database_every_request_is_refused_soon_and_works_again_after(up, client):
    running, _, _ = up
    before = draw(client).json()["images"][0]["data"]
    with frozen(child(running.pid, "postgres")):
        with ThreadPoolExecutor(4) as pool:
            answers = [
                pool.submit(draw, client), pool.submit(client.get, "/v1/concepts"), pool.submit(upload, client, "froze")
            ]  # fmt: skip
            ready = pool.submit(client.get, "/readyz").result()
        for answer in answers:
            assert_refused(answer.result(), "database_unreachable")
        assert (ready.status_code, ready.json()["parts"]["database"]) == (503, "unreachable")
        assert client.get("/healthz").is_success
    assert draw(client).json()["images"][0]["data"] == before
    assert_is_once(client, "froze")


STORE = {"s3": "-allowedOrigins", "filer": "-defaultStoreDir", "volume": "-preStopSeconds", "master": "-mdir"}
"""An option that identifies each of the programs."""


@pytest.mark.parametrize("program", STORE)
def test_with_a_frozen_store_what_needs_it_is_refused_soon_and_the_rest_works(up, client, program):
    running, _, _ = up
    with frozen(child(running.pid, STORE[program])):
        assert_refused(upload(client, f"without {program}"), "storage_unreachable")
        if program != "master":  # the master is asked before a write, not before a read
            assert_refused(draw(client, "never drawn"), "storage_unavailable")
        assert draw(client).is_success  # the engine has the bundle in memory
        assert client.get("/v1/concepts").is_success
    assert_is_once(client, f"without {program}")


def test_with_a_full_store_uploads_are_refused_and_the_rest_works(up, client):
    """Its volumes may write no file above a kilobyte, which ends a write like a full disk does."""
    running, _, _ = up
    volumes = child(running.pid, STORE["volume"])
    unlimited = volumes.rlimit(resource.RLIMIT_FSIZE)
    volumes.rlimit(resource.RLIMIT_FSIZE, (1024, unlimited[1]))
    try:
        assert_refused(upload(client, "no space"), "storage_unreachable")
        assert draw(client, "never drawn").is_success
        assert client.get("/v1/concepts").is_success
    finally:
        volumes.rlimit(resource.RLIMIT_FSIZE, unlimited)
    assert_is_once(client, "no space")


def test_with_a_frozen_broker_all_works(up, client):
    running, _, _ = up
    with frozen(child(running.pid, "valkey-server")):
        assert draw(client).is_success
        assert_is_once(client, "without broker")


def test_with_a_frozen_engine_images_are_refused_soon_and_the_rest_works(up, client):
    running, _, _ = up
    with frozen(child(running.pid, "worker.inference")):
        assert_refused(draw(client), "no_engine")
        assert client.get("/v1/concepts").is_success
        assert client.get("/readyz").json()["parts"]["engine"] == "unreachable"
    assert draw(client).is_success


def test_a_job_waits_for_a_frozen_trainer_host(up, client):
    running, _, _ = up
    with frozen(child(running.pid, "worker.host")):
        job = upload(client, "without host").raise_for_status().json()["job"]
        assert draw(client).is_success
        assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"
    assert_is_once(client, "without host")


def test_with_a_frozen_reconciler_all_works(up, client):
    running, _, _ = up
    with frozen(child(running.pid, "worker.reconcile")):
        assert draw(client).is_success
        assert_is_once(client, "without reconciler")


def test_a_frozen_api_answers_when_it_thaws(up, client):
    running, _, _ = up
    with ThreadPoolExecutor(1) as pool:
        with frozen(child(running.pid, "api")):
            answer = pool.submit(upload, client, "without api")
            with pytest.raises(httpx.ReadTimeout):
                httpx.get(f"{running.api_url}/healthz", timeout=2)
        assert answer.result().status_code == 202
    assert_is_once(client, "without api")


def test_a_frozen_launcher_restarts_a_dead_process_when_it_thaws(up, client):
    running, lines, _ = up
    launcher = psutil.Process(running.pid)
    reconciler = child(running.pid, "worker.reconcile")
    os.kill(launcher.pid, signal.SIGSTOP)
    try:
        reconciler.kill()
        assert draw(client).is_success
    finally:
        os.kill(launcher.pid, signal.SIGCONT)
    lines.wait_for("reconciler   ready", times=2)
