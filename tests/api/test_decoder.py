"""The process that decodes uploads: it starts wherever the api does, and where it cannot, no photo is blamed."""

import json
import os
import re
import resource
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.domain.keys import ADMIN_OWNER
from api.domain.settings import Settings
from tests.api.reference_images import reference
from tests.security.conftest import NOTHING
from worker.doctor import run_checks

REPOSITORY = Path(__file__).parents[2]
DECODE = """
import asyncio, sys, tempfile
from PIL import Image
from api.decoder import decoded
with tempfile.TemporaryFile() as file:
    Image.linear_gradient("L").save(file, "PNG")
    print(sys.flags.no_site, asyncio.run(decoded(file, heic=False)).width)
"""


def test_it_starts_where_all_packages_come_from_pythonpath(tmp_path: Path) -> None:
    """The interpreter that made the virtual environment has none of its packages."""
    packages = sysconfig.get_path("purelib")
    found = subprocess.run(
        [sys._base_executable, "-S", "-c", DECODE],  # type: ignore[attr-defined]  # undocumented, used by venv
        env={"PYTHONPATH": os.pathsep.join([str(REPOSITORY), packages])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.stdout, found.stderr) == ("1 256\n", "")


def test_it_starts_from_a_folder_that_is_on_the_path_by_a_relative_name(tmp_path: Path) -> None:
    (tmp_path / "below").symlink_to(REPOSITORY)
    found = subprocess.run(
        [sys.executable, "-c", DECODE], env={"PYTHONPATH": "below"}, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (found.stdout, found.stderr) == ("0 256\n", "")


def test_it_gets_nothing_of_the_environment_but_where_its_libraries_lie(tmp_path: Path) -> None:
    """A stand-in for the interpreter writes its environment and then runs the real one."""
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nenv > {tmp_path}/environment\nexec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    code = f"import sys; sys.executable = {str(interpreter)!r}" + DECODE
    environment = {"PYTHONPATH": str(REPOSITORY), "OPAD_S3_SECRET_KEY": "secret", "LD_LIBRARY_PATH": "/nix/lib"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)

    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_"} == {"LD_LIBRARY_PATH"}  # those three are the shell's


@pytest.fixture
def broken_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that cannot import Pillow, in the place of this one."""
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'PIL'\" >&2\nexit 1\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))


def test_a_decoder_that_cannot_start_is_not_blamed_on_the_photos(
    broken_python: None,
    upload: Callable[..., Any],
    stored: Callable[[], dict[str, int]],
    client: TestClient,
    new_key: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = upload(reference(1), reference(2), reference(3))

    assert (answer.status_code, answer.json()["code"]) == (503, "decoder_unavailable")
    assert answer.headers["retry-after"]
    assert "this is no fault of the photos" in answer.json()["detail"]
    assert "PIL" not in answer.text
    assert stored() == NOTHING
    assert client.get("/readyz").json()["parts"]["decoder"] == "cannot start"
    operator = {"Authorization": f"Bearer {new_key(ADMIN_OWNER)}"}
    checks = {check["name"]: check for check in client.get("/v1/system", headers=operator).json()["checks"]}
    assert "every upload is refused" in checks["decoder"]["message"]
    assert "No module named 'PIL'" in capsys.readouterr().out

    monkeypatch.undo()
    assert client.get("/readyz").json()["parts"]["decoder"] == "ok"
    assert upload(reference(1), reference(2), reference(3)).status_code == 202


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python's, on closing such a file
def test_a_full_disk_is_a_503_and_not_blamed_on_the_photos(
    upload: Callable[..., Any],
    stored: Callable[[], dict[str, int]],
    client: TestClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """This process may write no file above 64 bytes, which ends a write like a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        answer = upload(reference(1), reference(2), reference(3))
        ready = client.get("/readyz").json()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "disk_full", "60")
    assert ready["parts"]["decoder"] == "cannot start"
    assert "disk.full" in capsys.readouterr().out
    assert stored() == NOTHING
    assert upload(reference(1), reference(2), reference(3)).status_code == 202


def test_an_interpreter_that_is_not_there_is_named_by_the_doctor(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    lines: list[str] = []
    run_checks(settings, say=lines.append)
    (line,) = [line for line in lines if line.split()[1] == "decoder"]
    assert line.startswith("FAIL")
    assert "/no/such/python" in line
    assert re.search(r"run `make -C \S+ setup`", line)


def test_the_image_of_the_api_carries_what_the_decoder_imports(tmp_path: Path) -> None:
    """Only what docker/api.Dockerfile copies, and no torch."""
    for line in (REPOSITORY / "docker" / "api.Dockerfile").read_text().splitlines():
        words = line.split()
        if words[:1] != ["COPY"] or words[1].startswith(("--from", "docker/")):
            continue
        for source in words[1:-1]:
            target = tmp_path / words[-1] / Path(source).name if words[-1].endswith("/") else tmp_path / words[-1]
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(REPOSITORY / source)
    code = (
        "import json, sys; sys.modules['torch'] = sys.modules['numpy'] = None  # importing either now fails\n"
        "import opad_core, api.app" + DECODE + "print(json.dumps(opad_core.__file__))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    width, place = found.stdout.splitlines()
    assert (width, json.loads(place)) == ("0 256", str(tmp_path / "opad_core" / "__init__.py"))
