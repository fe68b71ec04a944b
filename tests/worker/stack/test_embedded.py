"""The embedded servers keep their data, are restarted when they die, and leave no process behind."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import psutil
import psycopg
import pytest
import redis
from psycopg.rows import scalar_row
from pydantic import SecretStr

from api.domain.settings import Settings
from worker.stack.embedded import local_servers, start_servers
from worker.stack.home import Home, LocalError
from worker.stack.supervision import Supervisor

REPOSITORY = Path(__file__).parents[3]
LAUNCHER = """
import sys
from pathlib import Path
from api.domain.settings import Settings
from worker.stack.embedded import local_servers
with local_servers(Settings(home=Path(sys.argv[1])), say=lambda line: None) as settings:
    print(settings.database_url, flush=True)
    sys.stdin.read()
"""


def servers_in(folder: Path):
    return local_servers(Settings(home=folder), say=lambda line: None)


@contextmanager
def launcher(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the servers of `folder` in another process until its input ends. Yields when they are ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0], "the launcher printed nothing for 60 s"
        assert process.stdout.readline().startswith("postgresql://")
        yield process
    finally:
        process.communicate(timeout=60)


def s3(settings: Settings):
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
    )


def valkey(settings: Settings) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(settings.redis_url).removeprefix("redis+socket://").split("?")[0])


@pytest.fixture
def folder(short_folder: Path, request: pytest.FixtureRequest) -> Path:
    return short_folder / f"a home of {request.node.name}"  # with spaces, as a user's path may have


def test_data_survives_a_restart_and_nothing_keeps_running(folder):
    with servers_in(folder) as settings:
        runtime = Path(str(settings.redis_url).removeprefix("redis+socket://").split("?")[0]).parent
        with psycopg.connect(settings.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        valkey(settings).set("kept", "7")
        s3(settings).put_object(Bucket="opad", Key="kept", Body=b"7")
    assert not runtime.exists()
    assert processes_using(folder) == []
    with servers_in(folder) as settings:
        with psycopg.connect(settings.database_url, row_factory=scalar_row) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == 7
        assert valkey(settings).get("kept") == b"7"
        assert s3(settings).get_object(Bucket="opad", Key="kept")["Body"].read() == b"7"


def test_a_second_launcher_is_refused(folder):
    with (
        launcher(folder) as first,
        pytest.raises(LocalError, match=rf"in use by another launcher \(process {first.pid}\)"),
        servers_in(folder),
    ):
        pass


def test_the_servers_of_a_killed_launcher_end_and_the_next_start_finds_the_data(folder):
    with launcher(folder) as process:
        settings_left = processes_using(folder)
        assert len(settings_left) >= 3
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(settings_left, timeout=15)
        assert alive == []
    with servers_in(folder) as settings, psycopg.connect(settings.database_url):
        assert valkey(settings).ping()


def test_a_stale_pid_file_with_the_id_of_a_running_process_is_removed(folder):
    only_postgresql = Settings(home=folder, redis_url="redis://elsewhere", s3_endpoint="http://elsewhere")
    with local_servers(only_postgresql, say=lambda line: None) as settings:
        assert (settings.redis_url, settings.s3_endpoint) == ("redis://elsewhere", "http://elsewhere")
    (folder / "postgresql" / "18" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with local_servers(only_postgresql, say=lambda line: None) as settings, psycopg.connect(settings.database_url):
        pass


def test_every_server_comes_back_after_kill_9(folder):
    home = Home(folder)
    home.open()
    lines: list[str] = []
    supervisor = Supervisor(home, lines.append, should_stop=lambda: sum("ready" in line for line in lines) == 12)
    try:
        settings = start_servers(Settings(home=folder), supervisor)
        s3(settings).put_object(Bucket="opad", Key="kept", Body=b"7")
        before = supervisor.pids()
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        supervisor.run_until_stopped()
        assert supervisor.pids().keys() == {"postgresql", "valkey", "s3-master", "s3-volume", "s3-filer", "s3"}
        assert not before.items() & supervisor.pids().items()
        with psycopg.connect(settings.database_url):
            assert valkey(settings).ping()
        assert s3(settings).get_object(Bucket="opad", Key="kept")["Body"].read() == b"7"
    finally:
        supervisor.stop()
        home.close()


def test_credentials_are_required_and_readable_only_by_the_owner(stack):
    assert (stack.home / "credentials.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(stack.database_url.replace("opad:", "opad:x", 1))
    stranger = s3(stack.model_copy(update={"s3_secret_key": SecretStr("x")}))
    with pytest.raises(stranger.exceptions.ClientError, match="SignatureDoesNotMatch"):
        stranger.list_buckets()


def test_a_folder_of_someone_else_keeps_its_permissions(folder):
    folder.mkdir()
    theirs = folder / "theirs.txt"
    theirs.write_text("mine")
    theirs.chmod(0o644)
    folder.chmod(0o755)
    home = Home(folder)
    home.open()
    home.close()
    assert [path.stat().st_mode & 0o777 for path in (folder, theirs)] == [0o755, 0o644]


def processes_using(folder: Path) -> list[psutil.Process]:
    """Return the other processes that run in the folder or name it in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.cwd()]
            if process.pid != os.getpid() and any(str(folder) in word for word in words):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
