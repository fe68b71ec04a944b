"""Run the whole service on one machine: for `opad up`, and as a context manager for other programs."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from celery.exceptions import CeleryError
from kombu.exceptions import KombuError

from api.domain import audit, keys
from api.domain.commands import runnable
from api.domain.credentials import make_credentials
from api.domain.database import make_sessions
from api.domain.settings import Settings
from api.domain.storage import Storage
from migrations.run import migrate
from worker.celery_app import create_app
from worker.stack.embedded import environment, start_servers
from worker.stack.home import Home, LocalError, write_private
from worker.stack.parent_death import dies_with_parent
from worker.stack.servers import free_ports, is_free
from worker.stack.supervision import Interrupted, Service, Supervisor, UnusableSetting

READY = "OPAD is ready:"
"""Prefix of the line that is printed when everything answers."""


@dataclass(frozen=True)
class RunningStack:
    api_url: str
    admin_key: str
    pid: int
    """Process id of the launcher."""


def run_stack(settings: Settings, *, say: Callable[[str], None], should_stop: Callable[[], bool]) -> None:
    """Start everything that no setting names and restart what dies, until `should_stop()`. Then stop it.

    Raises LocalError.
    """
    if not is_free(settings.port):
        raise LocalError(
            f"port {settings.port} is taken by another program; choose one with --port, or OPAD_PORT, 0 for any"
        )
    home = Home(settings.home)
    home.open()
    supervisor = Supervisor(home, say, should_stop)
    try:
        complete = start_servers(settings, supervisor)
        if not complete.port:
            complete.port = free_ports(1)[0]
        Storage(complete).ensure_bucket()
        migrate(complete.sqlalchemy_url)
        _make_admin_key(complete, say)
        if complete.c2pa_cert is complete.c2pa_key is None:
            make_credentials(complete.signing_certificates, complete.signing_key)
        own_engine = not complete.engine_urls
        if own_engine:
            complete.engine_urls = [f"unix:{home.sockets / 'engine.sock'}"]
        home.publish(environment(complete))
        services = [_trainer_host(complete), _reconciler(complete), _api(complete)]
        supervisor.start(*([_engine(complete)] if own_engine else []), *services)
        url = _api_url(complete)
        say(f"{READY} {url}")
        say(f"  API documentation {url}/docs   dashboard {url}/dashboard   logs {home.folder / 'logs'}")
        say("  Ctrl-C stops everything; the data is kept")
        supervisor.run_until_stopped()
    except Interrupted:
        pass
    finally:
        say("stopping")
        supervisor.stop()
        home.close()


@contextmanager
def local_stack(settings: Settings, *, say: Callable[[str], None]) -> Iterator[RunningStack]:
    """Run `opad up` as a child of this process for the length of the block.

    Uses another port if the one in the settings is taken. The child ends with the calling thread, which must live as
    long as the block. Raises LocalError.
    """
    port = settings.port if is_free(settings.port) and settings.port else free_ports(1)[0]
    chosen = settings.model_copy(update={"port": port})
    launcher = subprocess.Popen(
        dies_with_parent(sys.executable, "-m", "worker.cli", "up", death_signal=signal.SIGTERM),
        env={**os.environ, **child_environment(), **environment(chosen)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: list[str] = []
    is_up = threading.Event()
    listener = threading.Thread(target=_listen, args=(launcher, lines, is_up, say))
    listener.start()
    try:
        is_up.wait()
        if not any(line.startswith(READY) for line in lines):
            if launcher.wait() == 2:
                raise UnusableSetting(
                    "\n".join(line.removeprefix("opad: ") for line in lines if line.startswith("opad: "))
                )
            raise LocalError("the service did not start:\n" + "\n".join(lines[-20:]))
        if keys.parse_file(settings.home) is None:
            raise LocalError(
                f"{settings.home / keys.KEY_FILE} holds no key; start `opad up`, make one with "
                "`opad key create --scopes admin`, and write it to that file"
            )
        yield RunningStack(_api_url(chosen), (settings.home / keys.KEY_FILE).read_text().strip(), launcher.pid)
    finally:
        launcher.terminate()
        launcher.wait()
        listener.join()


def _listen(
    launcher: subprocess.Popen[str], lines: list[str], is_up: threading.Event, say: Callable[[str], None]
) -> None:
    """Pass on the launcher's output until it ends. Set `is_up` when the service is ready or cannot become ready."""
    assert launcher.stdout is not None
    with launcher.stdout:
        for line in map(str.rstrip, launcher.stdout):
            lines.append(line)
            say(line)
            if line.startswith(READY):
                is_up.set()
    is_up.set()


def _make_admin_key(settings: Settings, say: Callable[[str], None]) -> None:
    path = settings.home / keys.KEY_FILE
    with make_sessions(settings).begin() as session:
        key = keys.ensure_first_admin_key(session)
        if key is not None:
            write_private(path, key + "\n")  # before the commit, so that a crash cannot lose the key
        stored = keys.parse_file(settings.home)
        works = stored is not None and session.scalar(keys.opened_by(stored)) is not None
    if key is not None:
        say(f"admin key    {key}  (shown this once; also in {path})")
    elif works:
        say(f"admin key    in {path}")
    else:
        say(runnable("admin key    keys that you know still work; `opad key create --scopes admin` makes another"))


def store_new_admin_key(settings: Settings) -> Path:
    """Make an admin key and write it to the data folder, for a restored service, whose keys are known as hashes only.

    Returns the file.
    """
    path = settings.home / keys.KEY_FILE
    with make_sessions(settings).begin() as session:
        key, secret = keys.create(session, owner_name=keys.ADMIN_OWNER, label="made by opad restore", scopes=["admin"])
        audit.record(session, action="key.create", object_id=key.id, outcome="created", owner_id=key.owner_id)
        write_private(path, secret.text + "\n")
    return path


def _api(settings: Settings) -> Service:
    url = _api_url(settings)

    def ready() -> str | None:
        try:
            return url if httpx.get(f"{url}/healthz", timeout=1, trust_env=False).is_success else None
        except httpx.TransportError:
            return None

    return _python_service("api", "api", settings, ready, layer=2)


def _trainer_host(settings: Settings) -> Service:
    celery = create_app(settings)

    def ready() -> str | None:
        try:
            return "trainer host, answers notifications" if celery.control.ping(timeout=0.5) else None
        except (CeleryError, KombuError, OSError):
            return None

    return _python_service("trainer", "worker.host", settings, ready, layer=1, stop_seconds=60)


def _reconciler(settings: Settings) -> Service:
    return _python_service("reconciler", "worker.reconcile", settings, lambda: "sweeps", layer=1)


def _engine(settings: Settings) -> Service:
    address = settings.engine_urls[0]
    transport = httpx.HTTPTransport(uds=address.removeprefix("unix:"), trust_env=False)

    def ready() -> str | None:
        try:
            with httpx.Client(transport=transport, base_url="http://engine", timeout=1, trust_env=False) as client:
                return f"base {settings.base}" if client.get("/readyz").is_success else None
        except httpx.TransportError:
            return None

    service = _python_service("engine", "worker.inference", settings, ready, layer=1)
    service.command.extend(["--bind", address])
    return service


def _python_service(
    name: str, module: str, settings: Settings, ready: Callable[[], str | None], *, layer: int, stop_seconds: float = 20
) -> Service:
    return Service(
        name=name,
        command=[sys.executable, "-m", module],
        ready=ready,
        environment={**child_environment(), **environment(settings)},
        layer=layer,
        stop_seconds=stop_seconds,
        start_seconds=180,  # importing torch is slow on a cold disk or a busy machine
    )


def child_environment() -> dict[str, str]:
    """Return an environment that finds our packages from any working directory.

    PYTHONSAFEPATH keeps a folder `api` in the working directory from hiding our package.
    """
    ours = str(Path(__file__).parents[2])
    return {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [ours, os.environ.get("PYTHONPATH")])),
    }


def _api_url(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
