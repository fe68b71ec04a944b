"""Servers for these tests only, because they are killed. Programs that fail on request. Jobs with a webhook."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil
import pytest
import torch

from api.domain import keys, webhooks
from api.domain.settings import Settings
from api.domain.tables import ApiKey, Job, Owner, ServedBase
from opad_core.bases.loading import load_base
from opad_core.methods.opad.config import preset
from opad_core.methods.train import train
from opad_core.training.config import override
from tests.conftest import make_template
from tests.faults import invariants
from tests.faults.proxy import Proxy
from tests.faults.trainers import Trainers

# F811 below: parameters have the names of fixtures that are imported here
from tests.job_life import (  # noqa: F401  pytest finds fixtures by their names here
    base_folder,
    make_job,
    notifications,
    queue_training,
    quick,
    reference_images,
    sessions,
    start_process,
    wait_until,
)
from worker.stack.embedded import start_servers
from worker.stack.home import Home
from worker.stack.servers import free_ports
from worker.stack.supervision import Supervisor


@dataclass
class Servers:
    settings: Settings
    supervisor: Supervisor

    def kill(self, name: str) -> None:
        """Kill a server with all its processes: postgresql, valkey or s3."""
        process = self.supervisor._running[name].process
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def start(self, name: str) -> None:
        """Start it again on its data. Returns when it answers."""
        self.supervisor.start(self.supervisor._running[name].service)

    def start_dead_ones(self) -> None:
        for name, running in self.supervisor._running.items():
            if running.process.poll() is not None:
                self.start(name)


@pytest.fixture(scope="session")
def servers(short_folder: Path) -> Iterator[Servers]:
    home = Home(short_folder / "faults")
    home.open()
    supervisor = Supervisor(home, say=lambda line: None)
    nothing_set = Settings(home=home.folder, database_url=None, redis_url=None, s3_endpoint=None)
    settings = start_servers(nothing_set, supervisor)
    make_template(settings)
    yield Servers(settings, supervisor)
    supervisor.stop()
    home.close()


@pytest.fixture(scope="session")
def stack(servers: Servers) -> Settings:
    """Replace the servers that all other tests share."""
    return servers.settings


@pytest.fixture(autouse=True)
def _all_servers_live_in_the_end(servers: Servers, settings: Settings) -> Iterator[None]:
    yield
    servers.start_dead_ones()


@pytest.fixture
def fail_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`fail_at("checkpoint.stored", "pass", "kill")` sets what processes started afterwards do there, in turn.

    The answer is the file that tells what is still to come.
    """
    folder = tmp_path / "failpoints"
    folder.mkdir()
    monkeypatch.setenv("OPAD_FAILPOINTS", str(folder))

    def arm(name: str, *acts: str) -> Path:
        (folder / name).write_text("\n".join(acts))
        return folder / name

    return arm


@pytest.fixture
def queue(queue_training, sessions) -> Callable[..., object]:  # noqa: F811
    """Like `queue_training`, with a webhook for every end of the job."""

    def make(*, iterations: int = 4, **columns: object) -> object:
        job_id = queue_training(iterations=iterations)
        with sessions.begin() as db:
            job = db.get_one(Job, job_id)
            for name, value in columns.items():
                setattr(job, name, value)
            hook = {"url": "http://127.0.0.1:9/", "events": list(webhooks.JOB_EVENTS), "secret": webhooks.new_secret()}
            db.add(webhooks.Webhook(owner_id=job.owner_id, **hook))
        return job_id

    return make


@pytest.fixture
def trainers(quick, sessions, tmp_path) -> Iterator[Trainers]:  # noqa: F811
    found = Trainers(quick, sessions, tmp_path / "trainers.log")
    yield found
    found.stop()
    print(found.output)


@pytest.fixture
def check(settings, sessions, undisturbed) -> Callable[[], None]:  # noqa: F811
    """Check the invariants, including exact resume, for jobs of four iterations."""
    return lambda: invariants.check(settings, sessions, expected=undisturbed)


@pytest.fixture(scope="session")
def undisturbed(base_folder: Path) -> bytes:  # noqa: F811
    """Train a job of `queue()` without a fault and return its bundle. One thread, like the trainer's process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    base = load_base(str(base_folder), device="cpu")
    config = override(preset("default", base.manifest.presets), {"iterations": 4, "collaborative_iterations": 2})
    bundle = train(
        base, reference_images(), "mug", config, seed=7, report=lambda _: None, should_stop=lambda: False
    )  # fmt: skip
    torch.set_num_threads(threads)
    return bundle


@pytest.fixture
def s3_wire(quick) -> Iterator[tuple[Proxy, Settings]]:  # noqa: F811
    """A proxy to the object store, and settings that use it."""
    port = urlsplit(quick.s3_endpoint or "").port
    assert port is not None
    proxy = Proxy(port)
    yield proxy, quick.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{proxy.port}"})
    proxy.close()


@pytest.fixture
def database_wire(quick) -> Iterator[tuple[Proxy, Settings]]:  # noqa: F811
    """A proxy to PostgreSQL, and settings that use it."""
    url = urlsplit(quick.database_url or "")
    (folder,) = parse_qs(url.query)["host"]
    proxy = Proxy(Path(folder) / ".s.PGSQL.5432")
    address = f"postgresql://{url.username}:{url.password}@127.0.0.1:{proxy.port}{url.path}?sslmode=disable"
    yield proxy, quick.model_copy(update={"database_url": address})
    proxy.close()


@pytest.fixture
def api_settings(quick) -> Settings:  # noqa: F811
    return quick.model_copy(update={"port": free_ports(1)[0]})


@pytest.fixture
def admin_key(sessions) -> str:  # noqa: F811
    """A key of alice, in a database that knows the base."""
    key = keys.mint()
    with sessions.begin() as db:
        owner = Owner(name="alice")
        db.add(owner)
        db.flush()
        db.add(ApiKey(owner_id=owner.id, label="test", secret_sha256=key.sha256, scopes=["admin"]))
        db.add(ServedBase(name="nano", resolution=64, nouns=["mug"], words=["a"], manifest_sha256="0" * 64))
    return key.text


@pytest.fixture
def start_api(start_process, api_settings):  # noqa: F811
    """Start `python -m api`, by default with `api_settings`. Returns when it answers."""

    def start(settings=api_settings):
        process = start_process(settings.model_copy(update={"base": "nano"}), "api")

        def answers() -> bool:
            assert process.poll() is None, "the api has ended"
            with contextlib.suppress(httpx.TransportError):  # not listening yet
                return httpx.get(f"http://127.0.0.1:{settings.port}/healthz").is_success
            return False

        wait_until(answers, seconds=60, what="the api's start")
        return process

    return start


def is_frozen(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED
