"""OPAD_HOME, the data folder: its lock, permissions and state files, and the processes an earlier launcher left."""

import fcntl
import json
import os
import pwd
import secrets
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

LONGEST_SOCKET_PATH = 103
"""Bytes of a socket path on macOS without the final zero. Linux allows 107."""


class LocalError(Exception):
    """The embedded servers cannot start or continue. The message says what to do."""


@dataclass(frozen=True)
class Account:
    """The unprivileged user that runs PostgreSQL, which refuses to run as root."""

    name: str
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


class Home:
    """Holds the lock of the data folder, and a run-time folder with a short path, from `open` to `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.runtime = Path()
        """Short enough for socket paths. PostgreSQL's account may enter it; nobody else may list it."""
        self._lock = -1

    @property
    def sockets(self) -> Path:
        """Return the subfolder for sockets that only our user can reach."""
        return self.runtime / "own"

    def open(self) -> None:
        """Lock the folder and stop leftover processes. Raises LocalError if the folder is in use or cannot be used."""
        make_own_folder(self.folder, passable=True)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode().strip()
            os.close(self._lock)
            raise LocalError(
                f"{self.folder} is in use by another launcher (process {holder}); "
                "stop it, or set OPAD_HOME to another folder"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        self._stop_leftovers()
        self._close_to_others()
        self.runtime = self._make_runtime_folder()
        self.sockets.mkdir(mode=0o700)

    def close(self) -> None:
        shutil.rmtree(self.runtime)
        for name in ("running.json", "environment.json"):
            (self.folder / name).unlink(missing_ok=True)
        os.close(self._lock)

    def secret(self, name: str) -> str:
        """Return a password of this installation. It is made once and stored in `credentials.json` with mode 600."""
        path = self.folder / "credentials.json"
        known: dict[str, str] = read_state(
            path, remedy="restore it from a backup, because the servers use these passwords"
        )
        if name not in known:
            known[name] = secrets.token_urlsafe(24)
            write_private(path, json.dumps(known, indent=1))
        return known[name]

    def log(self, name: str) -> Path:
        make_own_folder(self.folder / "logs")
        log = self.folder / "logs" / f"{name}.log"
        log.touch(mode=0o600)
        return log

    def record(self, pids: Iterable[int]) -> None:
        """Write down the running processes, so that the next launcher can stop them if this one is killed."""
        running = {}
        for pid in pids:
            try:
                running[pid] = psutil.Process(pid).create_time()
            except psutil.NoSuchProcess:
                continue
        state = {"folder": folder_identity(self.folder), "runtime": str(self.runtime), "processes": running}
        write_private(self.folder / "running.json", json.dumps(state))

    def publish(self, environment: dict[str, str]) -> None:
        """Write the settings for other processes of this user, such as `opad key create`."""
        state = {"folder": folder_identity(self.folder), "environment": environment}
        write_private(self.folder / "environment.json", json.dumps(state, indent=1))

    def _stop_leftovers(self) -> None:
        """Stop the processes that an earlier launcher of this folder left. We hold the lock, so that launcher is dead.

        In a copy of the folder the file names the processes of the original, which may be running; they are left alone.
        """
        path = self.folder / "running.json"
        left = read_state(path, remedy="remove it, and stop the processes that an earlier `opad up` left")
        if not left:
            return
        if left.get("folder") != folder_identity(self.folder):
            path.unlink()
            return
        processes = []
        for pid, created in left["processes"].items():
            try:
                process = psutil.Process(int(pid))
                if abs(process.create_time() - created) < 1:  # otherwise the id belongs to another process by now
                    processes.append(process)
            except psutil.NoSuchProcess:
                continue
        end_processes(processes)
        runtime = Path(left["runtime"])
        if runtime.name.startswith("opad-") and runtime.is_dir() and runtime.stat().st_uid == os.geteuid():
            shutil.rmtree(runtime)
        path.unlink()

    def _close_to_others(self) -> None:
        """Remove the permissions that an earlier version gave to other users. PostgreSQL protects its own folder."""
        for place in (self.folder / name for name in ("s3", "logs", "valkey", "cache")):
            for path in (place, *place.rglob("*")) if place.exists() else ():
                info = path.lstat()
                if not path.is_symlink() and info.st_uid == os.geteuid() and info.st_mode & 0o077:
                    path.chmod(stat.S_IMODE(info.st_mode) & 0o700)

    def _make_runtime_folder(self) -> Path:
        """Make a folder for sockets, whose paths have at most 108 bytes."""
        candidates = [Path("/tmp"), Path(tempfile.gettempdir())]
        if os.geteuid() != 0 and os.environ.get("XDG_RUNTIME_DIR"):
            candidates.insert(0, Path(os.environ["XDG_RUNTIME_DIR"]))
        for parent in candidates:
            # a comma would separate two folders for PostgreSQL
            short = len(bytes(parent)) <= LONGEST_SOCKET_PATH - 50 and "," not in str(parent)
            if short and os.access(parent, os.W_OK | os.X_OK):
                folder = Path(tempfile.mkdtemp(prefix="opad-", dir=parent))
                if os.geteuid() == 0:
                    folder.chmod(0o711)  # PostgreSQL's account must reach its own folder inside
                return folder
        raise LocalError(
            f"no writable folder with a short path and no comma for sockets among {', '.join(map(str, candidates))}; "
            "set TMPDIR"
        )


def end_processes(processes: list[psutil.Process], *, grace_seconds: float = 10) -> None:
    """Send SIGINT, which asks every service for a fast stop, then SIGKILL to the groups of those that remain."""
    for process in processes:
        _signal_quietly(process.pid, signal.SIGINT)
    _, alive = psutil.wait_procs(processes, timeout=grace_seconds)
    for process in alive:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            _signal_quietly(process.pid, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=grace_seconds)


def _signal_quietly(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def make_own_folder(folder: Path, *, passable: bool = False) -> None:
    """Make the folder without access for others. If we are root, PostgreSQL's account can enter a `passable` one.

    An existing folder keeps its permissions, unless it is empty and ours. Raises LocalError if it cannot be used.
    """
    mode = 0o711 if passable and os.geteuid() == 0 else 0o700
    try:
        is_new = not folder.exists()
        if is_new:
            folder.mkdir(parents=True)
    except OSError as error:  # inside a file, below a folder of others, on a disk that is full or read-only, ...
        raise LocalError(f"cannot create {folder}: {error.strerror}; set OPAD_HOME to a folder of yours") from error
    if is_new:
        folder.chmod(mode)
    elif not folder.is_dir():
        raise LocalError(f"{folder} is not a folder; set OPAD_HOME to another one")
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise LocalError(f"this user has no access to {folder}; set OPAD_HOME to a folder of yours")
    elif folder.stat().st_uid == os.geteuid() and not any(folder.iterdir()):
        folder.chmod(mode)


def folder_identity(folder: Path) -> str:
    """Return device and inode, which differ in a copy and survive a move within the file system."""
    status = folder.stat()
    return f"{status.st_dev}:{status.st_ino}"


def read_state(path: Path, *, remedy: str) -> dict[str, Any]:
    """Return the content of a state file, or nothing if there is no file. Raises LocalError if it is damaged."""
    try:
        state = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError:
        state = None
    if not isinstance(state, dict):
        raise LocalError(f"{path} is damaged; {remedy}")
    return state


def write_private(path: Path, text: str) -> None:
    """Replace the file by a rename. Other users can read it at no time."""
    new = path.with_name(path.name + ".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def unprivileged_account(home: Path, data: Path) -> Account | None:
    """Return the account for PostgreSQL if we are root: the owner of existing data, else `postgres` or `nobody`."""
    if os.geteuid() != 0:
        return None
    if data.exists():
        status = data.stat()
        owner = Account(user_name(status.st_uid), status.st_uid, status.st_gid)
    else:
        names = {entry.pw_name for entry in pwd.getpwall()}
        entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        owner = Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    for parent in (home, *home.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            raise LocalError(
                f"PostgreSQL does not run as root, and its user {owner.name!r} cannot enter {parent}; "
                "set OPAD_HOME to a folder that others may enter (the default is /var/lib/opad), "
                "or start as an ordinary user"
            )
    return owner


def user_name(uid: int) -> str:
    """Return the user's name, or the number if it has no passwd entry, as in a container with another uid."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def published_environment(folder: Path) -> dict[str, str]:
    """Return what the launcher of the folder published. Empty if none runs."""
    published = read_state(folder / "environment.json", remedy="remove it, and start `opad up` again")
    if not published or published.get("folder") != folder_identity(folder):
        return {}  # the file in a copy names the database of the original
    known: dict[str, str] = published["environment"]
    return known
