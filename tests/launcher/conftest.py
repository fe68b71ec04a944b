"""`opad up` as a user starts it, one for the tests of a file, and access to its processes."""

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from api.domain.settings import Settings
from tests.random_base import write_random_base
from worker.stack.launcher import RunningStack, local_stack

SECONDS = 60
"""Seconds for a process to be restarted. A trainer host imports Celery and starts within a few."""


class Lines:
    """The output of a launcher. `wait_for` waits until a line has been printed a number of times."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def wait_for(self, beginning: str, *, times: int) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: self._count(beginning) >= times, SECONDS)
        assert found, f"{beginning!r} was not printed {times} times:\n" + "\n".join(self._lines)

    def _count(self, beginning: str) -> int:
        return sum(line.startswith(beginning) for line in self._lines)


def settings_for(home: Path, base: Path) -> Settings:
    return Settings(
        home=home, database_url=None, redis_url=None, s3_endpoint=None, port=0, base=str(base), device="cpu"
    )  # fmt: skip


@pytest.fixture(scope="module")
def base(short_folder) -> Path:
    return write_random_base(short_folder / "launcher-base")


@pytest.fixture(scope="module")
def up(short_folder, base) -> Iterator[tuple[RunningStack, Lines, Path]]:
    home, lines = short_folder / "launched", Lines()
    with local_stack(settings_for(home, base), say=lines) as running:
        yield running, lines, home


def child(launcher: int, *words: str) -> psutil.Process:
    """Return the launcher's child whose command contains these words."""
    children = psutil.Process(launcher).children()
    [found] = [child for child in children if all(any(word in own for own in child.cmdline()) for word in words)]
    return found
