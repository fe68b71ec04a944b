"""An upload gets 202 only after it is stored, whichever process dies at whichever moment."""

import http.client
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest
from psycopg import sql
from sqlalchemy import func, select

from api.domain.tables import Concept, Job, JobState, Reference
from tests.api.reference_images import reference
from tests.faults.conftest import is_frozen
from tests.faults.invariants import objects
from tests.job_life import wait_until

pytestmark = [pytest.mark.timeout(600), pytest.mark.fault]

FILES = [("images", (f"{number}.jpg", reference(number), "image/jpeg")) for number in range(3)]


@pytest.fixture
def upload(admin_key, api_settings):
    """Send POST /concepts with `key` as the Idempotency-Key."""

    def post(key: str, *, name: str = "my mug", port: int = api_settings.port) -> httpx.Response:
        return httpx.post(
            f"http://127.0.0.1:{port}/v1/concepts",
            files=FILES,
            data={"name": name, "class_noun": "mug", "consent": "true"},
            headers={"Authorization": f"Bearer {admin_key}", "Idempotency-Key": key},
            timeout=60,
        )

    return post


@pytest.fixture
def kept(sessions):
    """Return the numbers of concepts, jobs and references."""

    def count() -> tuple[int, ...]:
        with sessions() as db:
            return tuple(db.scalar(select(func.count()).select_from(table)) for table in (Concept, Job, Reference))

    return count


def test_an_api_killed_while_an_upload_comes_in_has_kept_nothing(
    start_api, admin_key, upload, kept, quick, api_settings
):
    api = start_api()
    half = http.client.HTTPConnection("127.0.0.1", api_settings.port)
    half.putrequest("POST", "/v1/concepts")
    for name, value in (
        ("Authorization", f"Bearer {admin_key}"),
        ("Content-Type", "multipart/form-data; boundary=b"),
        ("Content-Length", "900000"),
    ):
        half.putheader(name, value)
    half.endheaders()
    half.send(b'--b\r\nContent-Disposition: form-data; name="images"; filename="1.jpg"\r\n\r\n' + bytes(300_000))
    api.kill()
    with pytest.raises((http.client.HTTPException, OSError)):
        half.getresponse()
    assert (kept(), objects(quick)) == ((0, 0, 0), [])
    start_api()
    assert upload("order-1").status_code == 202
    assert kept() == (1, 1, 3)


@pytest.mark.always
@pytest.mark.parametrize("moment", ["references.stored", "request.committing", "request.committed"])
def test_an_api_killed_before_its_answer_leaves_one_job_to_a_client_that_asks_again(
    start_api, upload, kept, fail_at, moment
):
    """After the photos are stored and before the commit, or between the commit and the response."""
    fail_at("none")
    api = start_api()
    fail_at(moment, "kill")
    with pytest.raises(httpx.TransportError):
        upload("order-1")
    assert api.wait(10) == -signal.SIGKILL
    assert kept() == ((1, 1, 3) if moment == "request.committed" else (0, 0, 0))
    start_api()
    again = upload("order-1")
    assert again.status_code == 202
    assert (again.headers.get("idempotent-replayed") == "true") == (moment == "request.committed")
    assert kept() == (1, 1, 3)


def test_the_reconciler_notifies_of_a_job_whose_api_was_killed_before_it_did(
    start_api, upload, kept, fail_at, start_process, quick, notifications
):
    fail_at("job.notifying", "kill")
    api = start_api()
    assert upload("order-1").status_code == 202
    api.wait(10)
    assert notifications() == 0
    start_process(quick, "worker.reconcile")
    wait_until(lambda: notifications() == 1, seconds=30, what="the notification")


def test_equal_uploads_at_the_same_moment_make_one_job_and_another_under_their_key_is_refused(start_api, upload, kept):
    start_api()
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: upload("order-1"), range(3)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["job"]["id"] for answer in answers}) == 1
    other = upload("order-1", name="another mug")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert kept() == (1, 1, 3)


@pytest.mark.parametrize("what_is_lost", ["the commit", "its answer"])
def test_a_client_whose_commit_was_cut_off_asks_again_and_gets_one_job(
    start_api, upload, kept, database_wire, quick, api_settings, what_is_lost
):
    wire, through_wire = database_wire
    start_api(through_wire.model_copy(update={"port": api_settings.port}))
    lost = threading.Event()

    def on_request(connection, data):
        if b"INSERT INTO job " in data:
            connection.seen = b"creating"
        if connection.seen == b"creating" and b"COMMIT" in data and not lost.is_set():
            if what_is_lost == "the commit":
                lost.set()
                return None
            connection.seen = b"committing"
        return data

    def on_answer(connection, data):
        if connection.seen == b"committing" and not lost.is_set():
            lost.set()
            return None
        return data

    wire.on_request, wire.on_answer = on_request, on_answer
    first = upload("order-1")
    assert lost.is_set()
    assert (first.status_code, first.json()["code"]) == (503, "database_unreachable")
    assert first.headers["retry-after"] == "5"
    again = upload("order-1")
    assert again.status_code == 202
    assert (again.headers.get("idempotent-replayed") == "true") == (what_is_lost == "its answer")
    assert kept() == (1, 1, 3)


def test_a_database_killed_during_an_accept_and_back_again_has_one_job_for_a_client_that_asks_again(
    start_api, upload, kept, fail_at, servers
):
    fail_at("request.committing", "freeze")
    api = start_api()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(upload, "order-1")
        wait_until(lambda: is_frozen(api.pid), seconds=60, what="the commit")
        servers.kill("postgresql")
        psutil.Process(api.pid).send_signal(signal.SIGCONT)
        assert (first.result().status_code, first.result().headers["retry-after"]) == (503, "5")
    servers.start("postgresql")
    assert kept() == (0, 0, 0)
    assert upload("order-1").status_code == 202
    assert kept() == (1, 1, 3)


def test_without_its_database_or_its_store_the_api_refuses_and_recovers_by_itself(
    start_api, upload, kept, servers, api_settings
):
    start_api()
    url = f"http://127.0.0.1:{api_settings.port}"
    servers.kill("postgresql")
    refused = upload("order-1")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    ready = httpx.get(f"{url}/readyz", timeout=30)
    assert (ready.status_code, ready.json()["parts"]["database"]) == (503, "unreachable")
    assert httpx.get(f"{url}/healthz").status_code == 200
    servers.start("postgresql")
    servers.kill("s3")
    refused = upload("order-1")
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unreachable")
    assert kept() == (0, 0, 0)
    servers.start("s3")
    assert upload("order-1").status_code == 202
    assert kept() == (1, 1, 3)


def test_with_slow_servers_an_upload_is_slow_and_accepted(
    start_api, upload, kept, api_settings, database_wire, s3_wire
):
    """Each answer of the database and of the store comes a fifth of a second late."""

    def late(wire, data):
        time.sleep(0.2)
        return data

    for wire, _ in (database_wire, s3_wire):
        wire.on_answer = late
    addresses = {"database_url": database_wire[1].database_url, "s3_endpoint": s3_wire[1].s3_endpoint}
    start_api(api_settings.model_copy(update=addresses))
    ready = httpx.get(f"http://127.0.0.1:{api_settings.port}/readyz", timeout=30).json()
    assert (ready["parts"]["database"], ready["parts"]["storage"]) == ("ok", "ok")
    began = time.monotonic()
    assert upload("order-1").status_code == 202
    assert time.monotonic() - began > 0.2 * 4, "it needs three files to be stored and one commit at least"
    assert kept() == (1, 1, 3)


@pytest.fixture
def small_disk(settings, servers, short_folder):
    """Move the test's database to a disk of 24 MB, and back afterwards."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = short_folder / "small disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    owner = (servers.settings.home / "postgresql" / "18").stat()
    os.chown(disk, owner.st_uid, owner.st_gid)
    name = sql.Identifier(urlsplit(settings.database_url).path[1:])
    with psycopg.connect(servers.settings.database_url, autocommit=True) as db:
        db.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(str(disk)))
        db.execute(sql.SQL("ALTER DATABASE {} SET TABLESPACE small").format(name))
    yield
    with psycopg.connect(servers.settings.database_url, autocommit=True) as db:
        others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
        db.execute(others, (urlsplit(settings.database_url).path[1:],))
        db.execute(sql.SQL("ALTER DATABASE {} SET TABLESPACE pg_default").format(name))
        db.execute("DROP TABLESPACE small")
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(db) -> None:
    """Fill the disk in pieces that become smaller, because a small write may succeed where a large one fails."""
    db.execute("CREATE SCHEMA filler")
    lines = 10_000
    for number in count():
        try:
            db.execute(
                f"CREATE TABLE filler.t{number} AS SELECT repeat(random()::text, 50) FROM generate_series(1, {lines})"
            )
        except psycopg.errors.DiskFull:
            if lines == 1:
                raise
            lines = max(1, lines // 10)


def test_a_database_whose_disk_is_full_accepts_nothing_until_there_is_room(
    start_api, upload, kept, settings, small_disk
):
    api = start_api()
    with psycopg.connect(settings.database_url, autocommit=True) as db, pytest.raises(psycopg.errors.DiskFull):
        fill(db)
    refused = upload("order-1")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert kept() == (0, 0, 0)
    with psycopg.connect(settings.database_url, autocommit=True) as db:
        db.execute("DROP SCHEMA filler CASCADE")
    assert upload("order-1").status_code == 202
    assert kept() == (1, 1, 3)
    api.kill()
    api.wait()


def test_a_job_in_training_is_cancelled_before_its_concept_can_be_erased_and_nothing_of_it_appears_later(
    start_api, upload, admin_key, quick, sessions, trainers, fail_at, api_settings, base_folder
):
    fail_at("training.step", "pass", "freeze")
    start_api()
    accepted = upload("order-1").json()
    with sessions.begin() as db:
        job = db.scalars(select(Job)).one()
        job.overrides = {"iterations": 4, "collaborative_iterations": 2}
    trainer = trainers.start(*trainers.claim())
    wait_until(lambda: is_frozen(trainer.pid), seconds=120, what="the trainer's freezing")
    url, headers = f"http://127.0.0.1:{api_settings.port}/v1", {"Authorization": f"Bearer {admin_key}"}
    concept = f"{url}/concepts/{accepted['concept']['id']}"
    assert httpx.delete(concept, headers=headers).status_code == 409
    assert httpx.post(f"{url}/jobs/{job.id}/cancel", headers=headers).status_code == 200
    psutil.Process(trainer.pid).send_signal(signal.SIGCONT)
    trainer.join(60)
    assert trainer.exitcode == 0
    assert httpx.get(f"{url}/jobs/{job.id}", headers=headers).json()["state"] == JobState.cancelled
    assert httpx.delete(concept, headers=headers, timeout=30).status_code == 200
    assert objects(quick) == []
