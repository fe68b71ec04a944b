"""A lock file that allows one training at a time on a host.

The lock belongs to an open file that the trainer inherits, so the kernel frees it when the claiming process has
released it and the trainer has ended, in whatever way. Whoever holds the slot knows that no training runs here, even if
the database still says so. The file contains a random name for the host and, below it, the trainer's process id.
"""

import fcntl
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_NAME_BYTES = 16


@dataclass(frozen=True)
class Slot:
    fd: int
    """The trainer inherits it."""
    host: str
    """Unique name of this host. Two machines may share a hostname, so it has a random part."""

    def record_trainer(self, pid: int) -> None:
        os.pwrite(self.fd, f"\n{pid}\n".encode(), _NAME_BYTES)


@contextmanager
def take_slot(home: Path) -> Iterator[Slot | None]:
    """Hold the host's slot for the length of the block. Yields None if a training holds it."""
    home.mkdir(parents=True, exist_ok=True)
    fd = os.open(_file(home), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        name = os.pread(fd, _NAME_BYTES, 0)
        if len(name) < _NAME_BYTES:
            name = secrets.token_hex(_NAME_BYTES // 2).encode()
            os.pwrite(fd, name, 0)
        os.ftruncate(fd, _NAME_BYTES)
        try:
            yield Slot(fd, f"{socket.gethostname()}-{name.decode()}")
        finally:
            os.ftruncate(fd, _NAME_BYTES)
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def trainer_pid(home: Path) -> int | None:
    """Return the process id of the trainer that runs on this host, or None."""
    with take_slot(home) as slot:
        if slot is not None:
            return None
    lines = _file(home).read_text().split()
    return int(lines[1]) if len(lines) > 1 else None


def stop_trainer(home: Path) -> None:
    """Ask the trainer that runs on this host to stop. Nothing happens if there is none, or if it ends just now."""
    pid = trainer_pid(home)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _file(home: Path) -> Path:
    return home / "trainer.slot"
