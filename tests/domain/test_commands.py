"""Messages name commands that a shell in the current folder can run."""

import subprocess
import sys
from pathlib import Path

import pytest

from api.domain.commands import runnable


@pytest.fixture
def environment_at(monkeypatch, tmp_path):
    """A checkout that is the current folder, with programs in a folder that no shell searches."""

    def make(*programs: str) -> Path:
        folder = tmp_path / ".venv" / "bin"
        folder.mkdir(parents=True)
        for name in programs:
            (folder / name).write_text("#!/bin/sh\necho it ran")
            (folder / name).chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(folder / "python"))
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        monkeypatch.chdir(tmp_path)
        return folder

    return make


def test_a_command_of_the_checkout_is_named_with_its_folder(environment_at):
    environment_at("opad", "python")
    assert runnable("start `opad up`") == "start `.venv/bin/opad up`"
    assert runnable("start `python -m api`, or `make up`") == "start `.venv/bin/python -m api`, or `make up`"
    command = runnable("`opad doctor`").strip("`")
    assert subprocess.check_output(command, shell=True, text=True) == "it ran\n"


def test_from_elsewhere_the_whole_path_is_named(environment_at, monkeypatch):
    programs = environment_at("opad", "python")
    monkeypatch.chdir("/usr")
    assert runnable("start `opad up`") == f"start `{programs}/opad up`"


def test_a_command_that_the_shell_finds_keeps_its_short_name(environment_at, monkeypatch):
    programs = environment_at("opad", "python")
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin")
    assert runnable("`opad up` and `python -m api`") == "`opad up` and `python -m api`"


def test_where_the_console_command_is_missing_python_runs_it(environment_at, monkeypatch):
    programs = environment_at("python")
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin")
    assert runnable("start `opad up`") == "start `python -m worker.cli up`"
