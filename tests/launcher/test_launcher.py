"""`opad up` as a user starts it, while its parts are killed, its folder is copied and its files are damaged."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from api.domain.settings import Settings
from tests.random_base import write_random_base
from worker.local import environment
from worker.stack import RunningStack, local_stack, surroundings

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]
SECONDS = 60
"""How long a part may take to come back: a trainer host imports Celery and starts within a few."""


class Lines:
    """What a launcher says; `wait_for` waits until a line has been said so many times."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._changed:
            self._said.append(line)
            self._changed.notify_all()

    def wait_for(self, beginning: str, *, times: int) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: self._count(beginning) >= times, SECONDS)
        assert found, f"{beginning!r} was not said {times} times:\n" + "\n".join(self._said)

    def _count(self, beginning: str) -> int:
        return sum(line.startswith(beginning) for line in self._said)


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


def part(launcher: int, *words: str) -> psutil.Process:
    """The launcher's child whose command has these words."""
    children = psutil.Process(launcher).children()
    [found] = [child for child in children if all(any(word in own for own in child.cmdline()) for word in words)]
    return found


@pytest.mark.always
def test_a_part_that_dies_together_with_the_broker_it_is_asked_through_ends_no_launcher(up):
    running, lines, _ = up
    host, broker = part(running.pid, "worker.host"), part(running.pid, "valkey-server")
    os.killpg(host.pid, signal.SIGKILL)
    os.killpg(broker.pid, signal.SIGKILL)
    lines.wait_for("valkey       ready", times=2)
    lines.wait_for("trainer      ready", times=2)
    assert httpx.get(f"{running.api_url}/readyz", timeout=10).is_success
    assert psutil.pid_exists(running.pid)


def test_a_part_whose_server_is_frozen_is_not_ready_yet_and_the_others_are_tended(up):
    running, lines, _ = up
    broker = part(running.pid, "valkey-server")
    os.kill(broker.pid, signal.SIGSTOP)
    os.killpg(part(running.pid, "worker.host").pid, signal.SIGKILL)
    lines.wait_for("trainer      ended", times=2)
    os.killpg(part(running.pid, "worker.reconcile").pid, signal.SIGKILL)
    lines.wait_for("reconciler   ready", times=2)  # while nobody can say whether the trainer host is
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


def opad(command: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", *command],
        env={**os.environ, **surroundings(), **environment(settings_for(home, Path("nano")))},
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


def test_a_command_in_a_copy_does_not_reach_the_originals_database(up, short_folder):
    _, _, home = up
    copy = short_folder / "copied-for-commands"
    subprocess.run(["cp", "-a", str(home), str(copy)], check=True)
    asked = opad(["key", "create", "--label", "of a copy"], copy)
    assert asked.returncode == 1
    assert asked.stderr.startswith("opad: ")


@pytest.mark.parametrize("content", ["", '{"half": ', "[]"])
@pytest.mark.parametrize("name", ["running.json", "credentials.json", "s3-ports.json"])
def test_a_damaged_state_file_is_a_sentence(short_folder, name, content):
    home = short_folder / f"damaged {abs(hash((name, content)))}"
    home.mkdir(mode=0o711)
    (home / name).write_text(content)
    asked = opad(["up"], home)
    assert asked.returncode == 1
    assert asked.stderr.startswith(f"opad: {home / name} is damaged; ")
    assert "Traceback" not in asked.stderr
