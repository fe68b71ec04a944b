"""What stops an engine from compiling, with folders of programs as PATH and real disks."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from worker.inference.compile_obstacle import c_compiler, compile_obstacle


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Return the only folder in PATH, which is empty. `CC` is not set."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    return folder


def put(folder: Path, name: str) -> str:
    program = folder / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return str(program)


def test_the_compiler_is_that_of_cc_else_gcc_else_clang(programs, tmp_path, monkeypatch):
    put(programs, "cc")
    assert c_compiler() is None  # Triton never takes it
    clang = put(programs, "clang")
    assert c_compiler() == clang
    gcc = put(programs, "gcc")
    assert c_compiler() == gcc
    own = put(tmp_path, "own-cc")
    monkeypatch.setenv("CC", own)
    assert c_compiler() == own


def test_without_a_compiler_only_cuda_has_an_obstacle(programs, tmp_path):
    put(programs, "cc")
    assert compile_obstacle(tmp_path / "compiled", device="cuda") == (
        "no C compiler found (CC, gcc or clang); install gcc"
    )
    assert compile_obstacle(tmp_path / "compiled", device="cpu") is None


def test_a_cc_that_is_no_program_is_named_even_beside_gcc(programs, tmp_path, monkeypatch):
    put(programs, "gcc")
    monkeypatch.setenv("CC", "icx")
    assert compile_obstacle(tmp_path / "compiled", device="cuda") == (
        "CC is 'icx', which is no program; correct it, or remove it for gcc or clang"
    )


def test_pythons_headers_are_needed_beside_the_compiler(programs, tmp_path, monkeypatch):
    put(programs, "gcc")
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(tmp_path / name))
    assert compile_obstacle(tmp_path / "compiled", device="cuda") == (
        f"{tmp_path}/include/Python.h is missing; install Python's headers (Debian: python3-dev)"
    )
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").write_text("")
    assert compile_obstacle(tmp_path / "compiled", device="cuda") is None


def test_the_folder_is_made_and_left_empty(tmp_path):
    cache = tmp_path / "cache" / "compiled"
    assert compile_obstacle(cache, device="cpu") is None
    assert list(cache.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file")
    obstacle = compile_obstacle(tmp_path / "cache" / "compiled", device="cpu")
    assert obstacle == (
        f"{tmp_path}/cache/compiled cannot be written (Not a directory); "
        "give this user the folder, or set OPAD_HOME to another"
    )


def test_a_disk_with_too_little_room_is_named(tmp_path):
    disk = tmp_path / "small"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        obstacle = compile_obstacle(disk / "compiled", device="cpu")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    assert obstacle == f"{disk}/compiled has 0.0 GB free and compiling needs 1.0; make room there"
