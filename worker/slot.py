"""One training at a time on a host: a lock file that its holder cannot leave behind.

The lock belongs to an open file that the trainer inherits, so it is free exactly when the claimer has let go and the
trainer is gone, however either of them ended. Whoever takes the slot therefore knows that nothing trains here, even
if the database still says so. The file keeps the host's random name and, below it, the trainer's process id.
"""

import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_NAME_BYTES = 16


@dataclass(frozen=True)
class Slot:
    fd: int
    """To be inherited by the trainer."""
    host: str
    """Names this slot among all that ever claim from the database: two machines may share a hostname."""

    def record_trainer(self, pid: int) -> None:
        os.pwrite(self.fd, f"\n{pid}\n".encode(), _NAME_BYTES)


@contextmanager
def take_slot(home: Path) -> Iterator[Slot | None]:
    """Hold the host's slot while the block runs; None when a training has it."""
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
    """The process that trains on this host now, if any."""
    with take_slot(home) as slot:
        if slot is not None:
            return None
    lines = _file(home).read_text().split()
    return int(lines[1]) if len(lines) > 1 else None


def _file(home: Path) -> Path:
    return home / "trainer.slot"
