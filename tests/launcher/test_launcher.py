"""`opad up` as a user starts it: its processes are killed, its folder is copied, its files are damaged."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from tests.e2e.service import client_of, post_concept
from tests.e2e.test_main_job import wait_for_job
from tests.environment.conftest import started, variables
from tests.launcher.conftest import SECONDS, Lines, child, settings_for
from worker.stack.embedded import environment
from worker.stack.home import Home, published_environment
from worker.stack.launcher import READY, child_environment, local_stack
from worker.stack.named_user import NOT_ALLOWED, with_named_user

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.mark.always
def test_the_launcher_survives_a_host_that_dies_together_with_the_broker(up):
    running, lines, _ = up
    host, broker = child(running.pid, "worker.host"), child(running.pid, "valkey-server")
    os.killpg(host.pid, signal.SIGKILL)
    os.killpg(broker.pid, signal.SIGKILL)
    lines.wait_for("valkey       ready", times=2)
    lines.wait_for("trainer      ready", times=2)
    assert httpx.get(f"{running.api_url}/readyz", timeout=10).is_success
    assert psutil.pid_exists(running.pid)


def test_a_host_whose_broker_is_frozen_is_not_ready_and_others_are_restarted(up):
    running, lines, _ = up
    broker = child(running.pid, "valkey-server")
    os.kill(broker.pid, signal.SIGSTOP)
    os.killpg(child(running.pid, "worker.host").pid, signal.SIGKILL)
    lines.wait_for("trainer      ended", times=2)
    os.killpg(child(running.pid, "worker.reconcile").pid, signal.SIGKILL)
    lines.wait_for("reconciler   ready", times=2)  # while the readiness of the trainer host is unknown
    os.kill(broker.pid, signal.SIGCONT)
    lines.wait_for("trainer      ready", times=3)


def test_a_copy_of_the_folder_leaves_the_original_alone(up, short_folder, base):
    running, _, home = up
    copy = short_folder / "copied"
    subprocess.run(["cp", "-a", str(home), str(copy)], check=True)
    children = {child.pid for child in psutil.Process(running.pid).children()}
    with local_stack(settings_for(copy, base), say=Lines()) as other:
        assert httpx.get(f"{other.api_url}/readyz", timeout=10).is_success
        assert httpx.get(f"{running.api_url}/readyz", timeout=10).is_success
    assert {child.pid for child in psutil.Process(running.pid).children()} == children
    assert httpx.get(f"{running.api_url}/readyz", timeout=10).is_success


NAMES = (
    "s3", "logs", "valkey", "postgresql/18", "admin-key", "credentials.json", "environment.json", "c2pa/key.pem",
)  # fmt: skip
"""Names that another user may know in a data folder that they cannot list."""


def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, user="nobody", group="nogroup", extra_groups=[], capture_output=True, text=True, check=False
    )  # fmt: skip


@pytest.mark.always
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
def test_another_user_reads_nothing_below_the_data_folder(up):
    """PostgreSQL runs as another user, so others may enter the data folder. The test tries known names too."""
    running, _, home = up
    with client_of(running) as client:
        job = post_concept(client, "private", iterations=1)
        wait_for_job(client, job["id"], "succeeded")
    assert (home / "c2pa" / "key.pem").is_file()
    for place in (home, *(home / name for name in NAMES), *(home / "s3").iterdir(), *(home / "logs").iterdir()):
        assert as_nobody("find", str(place), "-type", "f", "-readable").stdout == "", place
        if place.is_file() and place.suffix != ".vif":  # SeaweedFS sets the mode of a volume's settings itself
            assert place.stat().st_mode & 0o077 == 0, place


def listening(launcher: int, kind: str) -> set[Any]:
    """Return the "unix" or "inet" addresses of every process that the launcher started."""
    found = set()
    for process in psutil.Process(launcher).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # short-lived processes of PostgreSQL and the trainer
            own = process.net_connections(kind)
            found |= {c.laddr for c in own if c.laddr and c.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)}
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
def test_every_unix_socket_is_in_the_run_time_folder_and_none_is_for_another_user(up):
    running, _, home = up
    runtime = json.loads((home / "running.json").read_text())["runtime"]
    sockets = listening(running.pid, "unix")
    assert {Path(path).name for path in sockets} == {
        "valkey.sock", "engine.sock", ".s.PGSQL.5432", "filer.sock", "s3.sock"
    }  # fmt: skip
    assert as_nobody("find", runtime, "-readable").stdout == ""
    assert as_nobody("test", "-r", f"{runtime}/own/s3.pem").returncode == 1
    for path in sockets:
        assert Path(path).is_relative_to(runtime)
        assert as_nobody("test", "-w", path).returncode == 1, path  # connecting needs write access


@pytest.mark.always
@pytest.mark.parametrize("host", ["127.0.0.1", "rebound.example"])
def test_every_port_asks_a_stranger_for_credentials(up, host):
    """`host` is the Host header of a web page that uses DNS rebinding to reach 127.0.0.1."""
    running, _, home = up
    ports = {address.port for address in listening(running.pid, "inet")}
    named = json.loads((home / "s3-ports.json").read_text())
    api = httpx.URL(running.api_url).port
    assert ports == {api, *named.values()}
    bucket = f"http://127.0.0.1:{named['s3.port']}/opad"
    for method, url in (
        ("GET", f"{running.api_url}/v1/concepts"), ("GET", bucket), ("GET", f"{bucket}/system/readable"),
        ("PUT", f"{bucket}/new"), ("DELETE", f"{bucket}/system/readable"),
    ):  # fmt: skip
        answer = httpx.request(method, url, headers={"Host": host}, trust_env=False)
        assert answer.status_code in (401, 403), url
    for port in ports - {api, named["s3.port"]}:
        assert "alert certificate required" in refusal_in_tls(port, host)
        answer = refusal_in_clear(port, host)
        assert answer == b"" or answer.startswith(b"HTTP/1.0 400 Bad Request")


def refusal_in_tls(port: int, host: str) -> str:
    """Return how a request ends that sends no certificate and accepts any."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                secure.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                return f"answered with {secure.recv(1000)!r}"
        except ssl.SSLError as error:
            return str(error).lower()


def refusal_in_clear(port: int, host: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        with contextlib.suppress(ConnectionResetError):  # also a refusal: gRPC closes the connection
            return plain.recv(1000)
        return b""


NAMELESS = 54321
"""A uid without an entry in /etc/passwd, as containers are given."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_stack_of_a_user_without_a_name_runs_beside_that_of_root(up, short_folder, base):
    """Neither reads, reaches or stops anything of the other. The user keeps root's right to read the programs' files,
    since Python may be installed where only root may look."""
    running, _, home = up
    own = short_folder / "nameless"
    own.mkdir(mode=0o755)
    os.chown(own, NAMELESS, NAMELESS)
    as_nameless = [
        "setpriv", f"--reuid={NAMELESS}", f"--regid={NAMELESS}", "--clear-groups",
        *(f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
    ]  # fmt: skip
    if subprocess.run([*as_nameless, *with_named_user("/bin/true")], check=False).returncode == NOT_ALLOWED:
        pytest.skip("this machine allows no user namespaces")
    theirs = own / "home"
    env = {name: value for name, value in variables(theirs, base).items() if name not in ("HOME", "USER", "LOGNAME")}
    command = [*as_nameless, sys.executable, "-m", "worker.cli", "up"]

    in_use = subprocess.run(command, env=env | {"OPAD_HOME": str(home)}, capture_output=True, text=True, check=False)
    assert (in_use.returncode, in_use.stderr) == (
        1, f"opad: this user has no access to {home}; set OPAD_HOME to a folder of yours\n"
    )  # fmt: skip
    with (
        started(*command, env=env, until=READY, folder=own) as lines,
        psycopg.connect(published_environment(theirs)["OPAD_DATABASE_URL"]) as connection,
    ):
        assert connection.execute("SELECT count(*) FROM concept").fetchone() == (0,)
        url = next(line for line in lines if line.startswith(READY)).removeprefix(READY).strip()
        assert httpx.get(f"{url}/readyz", timeout=10).is_success
        assert httpx.get(f"{running.api_url}/readyz", timeout=10).is_success
        with client_of(running) as client:
            key = client.headers["Authorization"]
            assert httpx.get(f"{url}/v1/concepts", headers={"Authorization": key}, timeout=10).status_code == 401
        launcher = int((theirs / "lock").read_text())
        for kind in ("unix", "inet"):
            ours, others = listening(running.pid, kind), listening(launcher, kind)
            assert ours
            assert others
            assert not ours & others
        runtime = Path(json.loads((theirs / "running.json").read_text())["runtime"])
        for place in (theirs, runtime, theirs / "credentials.json", theirs / "admin-key"):
            assert place.stat().st_uid == NAMELESS
            assert place.stat().st_mode & 0o077 == 0, place
            assert as_nobody("find", str(place), "-type", "f", "-readable").stdout == "", place
        for path in listening(launcher, "unix"):
            assert as_nobody("test", "-w", path).returncode == 1, path
    assert (theirs / "postgresql" / "18").stat().st_uid == NAMELESS
    assert not runtime.exists()
    assert httpx.get(f"{running.api_url}/readyz", timeout=10).is_success


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder read-only for a program")
def test_it_runs_with_a_read_only_tmp(base):
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="opad-") as folder:
        Path(folder).chmod(0o711)
        settings = settings_for(Path(folder) / "home", base)
        with subprocess.Popen(
            ["unshare", "--mount", "sh", "-c",
             'mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp && ! touch /tmp/x 2>&- && exec "$@"', "sh",
             sys.executable, "-m", "worker.cli", "up"],
            env={**os.environ, **child_environment(), **environment(settings), "TMPDIR": folder},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as launcher:  # fmt: skip
            assert launcher.stdout is not None
            lines = []
            for line in launcher.stdout:
                lines.append(line)
                if "Operation not permitted" in line or "permission denied" in line:
                    pytest.skip("this machine lets nobody mount")
                if line.startswith(READY):
                    launcher.terminate()
        assert any(line.startswith(READY) for line in lines), "".join(lines)


def test_files_that_an_earlier_version_left_readable_are_protected(short_folder):
    home = Home(short_folder / "open")
    (home.folder / "logs").mkdir(parents=True)
    log = home.folder / "logs" / "api.log"
    log.write_text("a line")
    for path, mode in ((home.folder / "logs", 0o755), (log, 0o644)):
        path.chmod(mode)
    home.open()
    home.close()
    assert [path.stat().st_mode & 0o777 for path in (home.folder / "logs", log)] == [0o700, 0o600]


def opad(command: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", *command],
        env={**os.environ, **child_environment(), **environment(settings_for(home, Path("nano")))},
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


def test_a_command_in_a_copy_does_not_reach_the_originals_database(up, short_folder):
    _, _, home = up
    copy = short_folder / "copied-for-commands"
    subprocess.run(["cp", "-a", str(home), str(copy)], check=True)
    result = opad(["key", "create", "--label", "of a copy"], copy)
    assert result.returncode == 1
    assert result.stderr.startswith("opad: ")


@pytest.mark.parametrize("content", ["", '{"half": ', "[]"])
@pytest.mark.parametrize("name", ["running.json", "credentials.json", "s3-ports.json"])
def test_a_damaged_state_file_is_named(short_folder, name, content):
    home = short_folder / f"damaged {abs(hash((name, content)))}"
    home.mkdir(mode=0o711)
    (home / name).write_text(content)
    result = opad(["up"], home)
    assert result.returncode == 1
    assert result.stderr.startswith(f"opad: {home / name} is damaged; ")
    assert "Traceback" not in result.stderr
