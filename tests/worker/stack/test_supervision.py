import errno
import os
import resource
import signal
import sys
import time

import pytest

from worker.stack.home import Home, LocalError
from worker.stack.supervision import Service, Supervisor, UnusableSetting


@pytest.fixture
def start(tmp_path):
    """Start a Python program as the service `part`, which never becomes ready."""
    home = Home(tmp_path / "home")
    home.open()
    supervisor = Supervisor(home, say=lambda line: None)

    def start(code):
        supervisor.start(Service("part", [sys.executable, "-c", code], ready=lambda: None))

    yield start
    supervisor.stop()
    home.close()


def test_a_failed_start_shows_its_own_lines_and_none_of_an_earlier_one(start):
    with pytest.raises(LocalError, match="the first reason"):
        start("import sys; sys.exit('the first reason')")
    with pytest.raises(
        LocalError, match=r"part ended with exit status 1; the end of .*part.log:\n  the second$"
    ) as failed:
        start("import sys; sys.exit('the second')")
    assert "the first" not in str(failed.value)


def test_a_part_that_cannot_use_a_setting_is_quoted(start):
    code = "import sys; print('opad: OPAD_DEVICE is none of ours', file=sys.stderr); sys.exit(2)"
    with pytest.raises(UnusableSetting, match=r"^OPAD_DEVICE is none of ours$"):
        start(code)


def test_a_part_that_dies_while_the_disk_is_full_is_started_again(tmp_path):
    """This process may write no file, which ends a write like a full disk does."""
    home, said, limits = Home(tmp_path / "home"), [], resource.getrlimit(resource.RLIMIT_FSIZE)
    home.open()
    deadline = time.monotonic() + 60
    fails = iter([False, True, False])  # the first restart finds no space for what it prepares

    def prepare():
        if next(fails):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def is_up_again():
        assert time.monotonic() < deadline
        return said.count("part         ready  up") == 2

    supervisor = Supervisor(home, say=said.append, should_stop=is_up_again)
    code = "import time; time.sleep(60)"
    supervisor.start(Service("part", [sys.executable, "-c", code], ready=lambda: "up", prepare=prepare))
    os.killpg(supervisor.pids()["part"], signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        supervisor.run_until_stopped()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        supervisor.stop()
        home.close()
    assert "part         cannot start ([Errno 28] No space left on device); trying again" in said
    assert f"cannot write to {home.folder} ([Errno 27] File too large); free space there" in said


def test_a_log_that_is_too_large_is_replaced_while_its_service_runs(tmp_path):
    home = Home(tmp_path / "home")
    home.open()
    log = home.log("part")
    older = log.with_name("part.log.1")
    deadline = time.monotonic() + 60

    def has_rotated():
        assert time.monotonic() < deadline
        return older.exists() and log.read_text() != ""

    supervisor = Supervisor(home, say=lambda line: None, should_stop=has_rotated, log_bytes=2000)
    code = "import time\nfor n in range(10**6): print(f'line {n:06}', flush=True); time.sleep(0.005)"
    supervisor.start(
        Service("part", [sys.executable, "-c", code], ready=lambda: "ready" if log.stat().st_size else None)
    )
    try:
        supervisor.run_until_stopped()
    finally:
        supervisor.stop()
        home.close()
    before, after = older.read_text().splitlines(), log.read_text().splitlines()
    assert before[0] == "line 000000"
    assert len("\n".join(before)) > 2000
    assert 0 <= int(after[0].removeprefix("line ")) - len(before) < 20, "it goes on, with few lines lost"
    assert older.stat().st_mode & 0o777 == 0o600


def test_another_end_with_status_2_is_shown_with_its_log(start):
    with pytest.raises(LocalError, match=r"part ended with exit status 2; the end of .*\n  usage: part") as failed:
        start("import sys; print('usage: part'); sys.exit(2)")
    assert not isinstance(failed.value, UnusableSetting)
