"""`.ci/setup`, which `make` runs first, beside variables that send pip elsewhere."""

import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.environment.conftest import AUTHORITIES, REPOSITORY

PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
BACKEND = """
import json
import os
import zipfile
from pathlib import Path
def build_editable(folder, config_settings=None, metadata_directory=None):
    Path("seen.json").write_text(json.dumps(dict(os.environ)))
    return write_wheel(Path(folder), "ours").name
"""


def write_wheel(folder: Path, name: str) -> Path:
    """Write a package of one empty module."""
    file, about = folder / f"{name}-1-py3-none-any.whl", f"{name}-1.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return file


@pytest.fixture
def checkout(tmp_path):
    """A checkout with two small packages, which a folder of wheels holds, instead of ours."""
    wheels, checkout = (tmp_path / name for name in ("wheels", "checkout"))
    for folder in (wheels, checkout / ".ci"):
        folder.mkdir(parents=True)
    shutil.copy(REPOSITORY / ".ci" / "setup", checkout / ".ci")
    write_wheel(wheels, "torchlike")
    digest = hashlib.sha256(write_wheel(wheels, "locked").read_bytes()).hexdigest()
    (checkout / "requirements.torch").write_text("torchlike==1\n")
    (checkout / "requirements.lock").write_text(f"locked==1 --hash=sha256:{digest}\n")
    (checkout / "pyproject.toml").write_text(PYPROJECT)
    (checkout / "backend.py").write_text(BACKEND + "\n" + inspect.getsource(write_wheel))
    return checkout


@pytest.fixture
def variables(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return kept | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels"), "PYTHON": sys.executable}


def set_up(checkout, variables, *command):
    return subprocess.run(
        command or ("sh", ".ci/setup"), cwd=checkout, env=variables, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip


def test_packages_go_into_the_checkouts_environment_whatever_pip_is_told(checkout, variables, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "pip.conf").write_text("[install]\nuser = true\n")
    theirs = dict.fromkeys(AUTHORITIES, "/nowhere/authorities.pem") | {
        "PIP_USER": "1", "PIP_TARGET": str(elsewhere), "PIP_REQUIRE_HASHES": "1", "PIP_CONSTRAINT": "/nowhere.txt",
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PYTHONPATH": str(elsewhere), "PYTHONUSERBASE": str(elsewhere),
    }  # fmt: skip
    done = set_up(checkout, variables | theirs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on disk" in done.stdout.splitlines()[1]
    assert "  unpacking them" in done.stdout.splitlines()
    assert list(elsewhere.iterdir()) == []
    assert not set(AUTHORITIES) & json.loads((checkout / "seen.json").read_text()).keys()
    imports = "import torchlike, locked, ours; print(locked.__file__)"
    found = subprocess.check_output([".venv/bin/python", "-I", "-c", imports], cwd=checkout, text=True)
    assert found.startswith(str(checkout / ".venv"))


def test_a_package_that_cannot_be_installed_stops_the_set_up(checkout, variables):
    (checkout / "requirements.lock").write_text(f"locked==1 --hash=sha256:{'0' * 64}\n")
    done = set_up(checkout, variables)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (checkout / ".venv" / "opad-setup").exists()


def test_a_terminal_shows_one_line_that_counts(checkout, variables):
    done = set_up(checkout, variables, "script", "--quiet", "--return", "--command", "sh .ci/setup", "/dev/null")
    assert done.returncode == 0, done.stdout
    assert "  1 of 1 packages\n  unpacking them" in done.stdout
