"""The Dockerfiles and compose files, without a Docker engine: a linter's view, and what the images promise."""

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DOCKERFILES = sorted((REPOSITORY / "docker").glob("*.Dockerfile"))


class _Loader(yaml.SafeLoader):
    """Compose's own tags keep their value."""


for tag in ("!override", "!reset"):
    _Loader.add_constructor(
        tag,
        lambda loader, node: (
            loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else loader.construct_mapping(node)
        ),
    )


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_linter_finds_nothing_in_a_dockerfile(path: Path) -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    found = subprocess.run(
        [hadolint, "--failure-threshold", "style", path], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_starts_from_what_an_argument_may_pin_and_runs_as_a_number(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= {"${PYTHON_IMAGE}", "${NGINX_IMAGE}"}
    assert re.findall(r"^USER (.*)", text, re.MULTILINE)[-1] == "10001:10001"  # a number is what runAsNonRoot can judge
    assert "org.opencontainers.image.licenses" in text


def test_the_tags_that_we_name_can_all_be_pinned() -> None:
    pinned = set(re.findall(r"(\w+_IMAGE)=", (REPOSITORY / "docker" / "pin.sh").read_text()))
    named = re.findall(r"\$\{(\w+_IMAGE):-", (REPOSITORY / "docker-compose.yml").read_text())
    assert set(named) == pinned


def test_the_bill_of_materials_names_what_is_installed_and_under_which_licence() -> None:
    told = subprocess.run(
        [sys.executable, REPOSITORY / "docker" / "sbom.py", "an-image"], capture_output=True, check=True
    )
    bill = json.loads(told.stdout)
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "an-image")
    (fastapi,) = [component for component in bill["components"] if component["name"] == "fastapi"]
    assert fastapi["purl"] == f"pkg:pypi/fastapi@{fastapi['version']}"
    assert fastapi["licenses"] == [{"license": {"name": "MIT"}}]


def test_every_service_is_locked_in_the_same_way() -> None:
    services = yaml.load((REPOSITORY / "docker-compose.yml").read_text(), _Loader)["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]


def test_what_is_run_on_another_host_says_which_setting_it_lacks() -> None:
    text = (REPOSITORY / "compose.worker.yaml").read_text()
    for name in ("OPAD_DATABASE_URL", "OPAD_REDIS_URL", "OPAD_S3_ENDPOINT", "OPAD_S3_SECRET_KEY"):
        assert re.search(rf"\$\{{{name}:\?is not set; give \S+", text)
