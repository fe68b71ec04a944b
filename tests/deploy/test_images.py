"""The Dockerfiles and compose files, checked without a Docker engine."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

from api.domain.denied_words import DeniedWords
from api.domain.settings import Settings

REPOSITORY = Path(__file__).parents[2]
DOCKERFILES = sorted((REPOSITORY / "docker").glob("*.Dockerfile"))


class _Loader(yaml.SafeLoader):
    """Loads the values of Compose's own tags."""


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
def test_an_image_can_be_pinned_and_runs_as_a_numeric_user(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= {"${PYTHON_IMAGE}", "${NGINX_IMAGE}"}
    assert re.findall(r"^USER (.*)", text, re.MULTILINE)[-1] == "10001:10001"  # runAsNonRoot can only check a number
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', text))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert labels.keys() == {"title", "description", "licenses", "version", "revision"}
    assert (labels["title"], labels["version"]) == (f"opad-{path.name.removesuffix('.Dockerfile')}", project["version"])
    assert "sbom.cdx.json" in text


def test_all_tags_can_be_pinned() -> None:
    pinned = set(re.findall(r"(\w+_IMAGE)=", (REPOSITORY / "docker" / "pin.sh").read_text()))
    named = re.findall(r"\$\{(\w+_IMAGE):-", (REPOSITORY / "docker-compose.yml").read_text())
    assert set(named) == pinned


def test_the_bill_of_materials_lists_packages_and_licenses() -> None:
    result = subprocess.run(
        [sys.executable, REPOSITORY / "docker" / "sbom.py", "an-image"], capture_output=True, check=True
    )
    bill = json.loads(result.stdout)
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "an-image")
    (fastapi,) = [component for component in bill["components"] if component["name"] == "fastapi"]
    assert fastapi["purl"] == f"pkg:pypi/fastapi@{fastapi['version']}"
    assert fastapi["licenses"] == [{"license": {"name": "MIT"}}]


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs Debian's dpkg-query")
def test_the_bill_of_an_image_without_python_lists_its_system(tmp_path: Path) -> None:
    administration = tmp_path / "var" / "lib" / "dpkg"
    administration.mkdir(parents=True)
    (administration / "status").write_text(
        "Package: nginx\nStatus: install ok installed\nArchitecture: all\nVersion: 1.28.0-1\n"
        "Maintainer: nginx <nginx@example.org>\nDescription: a server\n"
    )
    result = subprocess.run(
        [sys.executable, REPOSITORY / "docker" / "sbom.py", "an-image", "--of", tmp_path],
        capture_output=True,
        check=True,
    )
    (nginx,) = json.loads(result.stdout)["components"]
    assert nginx["purl"] == "pkg:deb/debian/nginx@1.28.0-1"


def test_every_service_is_hardened() -> None:
    services = yaml.load((REPOSITORY / "docker-compose.yml").read_text(), _Loader)["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]


NOT_IN_CONTAINERS = {"home", "host", "port"}
HANDED_ON_IF_SET = {"bases_dir", "s3_proxy", "s3_ca_file", "public_url", "provenance"}
ADDRESSES = {
    "database_url",
    "redis_url",
    "s3_endpoint",
    "s3_public_endpoint",
    "engine_urls",
    "denied_words",
    "trusted_proxies",
    "c2pa_cert",
    "c2pa_key",
}


def test_every_setting_reaches_the_containers_with_its_own_default(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    services = yaml.load(text, _Loader)["services"]
    handed_on = {**services["trainer"]["environment"], **services["api"]["environment"]}
    handed_on |= {name: value for name, value in services["engine"]["environment"].items() if name not in handed_on}
    for name, field in Settings.model_fields.items():
        if name in NOT_IN_CONTAINERS:
            continue
        value = handed_on[f"OPAD_{name.upper()}"]
        if name in HANDED_ON_IF_SET:
            assert value is None, name
        elif name not in ADDRESSES:
            (default,) = re.fullmatch(r"\$\{OPAD_\w+:-(.*)\}", value).groups()
            monkeypatch.setenv(f"OPAD_{name.upper()}", default)
            assert getattr(Settings(_env_file=None), name) == field.default, name
    assert "${OPAD_DENIED_WORDS:-./docker/denied-words.txt}" in text


def test_api_and_engine_read_one_list_of_denied_words() -> None:
    services = yaml.load((REPOSITORY / "docker-compose.yml").read_text(), _Loader)["services"]
    api, engine = services["api"], services["engine"]
    (mounted,) = [volume for volume in api["volumes"] if isinstance(volume, dict)]
    assert mounted in engine["volumes"]
    assert api["environment"]["OPAD_DENIED_WORDS"] == engine["environment"]["OPAD_DENIED_WORDS"] == mounted["target"]


def test_the_workers_image_has_the_compiler_of_triton() -> None:
    final_stage = (REPOSITORY / "docker" / "worker.Dockerfile").read_text().rpartition("FROM ")[2]
    (packages,) = re.findall(r"apt-get install --yes --no-install-recommends (.*?) &&", final_stage)
    assert set(packages.split()) == {"gcc", "libc6-dev"}


@pytest.mark.parametrize("name", ["docker-compose.yml", "compose.worker.yaml"])
def test_compiled_networks_outlive_the_container_of_an_engine(name: str) -> None:
    compose = yaml.load((REPOSITORY / name).read_text(), _Loader)
    for service in ("engine", "trainer"):
        assert "compiled:/var/lib/opad/cache/compiled" in compose["services"][service]["volumes"]
    assert "compiled" in compose["volumes"]
    made = re.search(r"install -d -o opad -g opad (.*)", (REPOSITORY / "docker" / "worker.Dockerfile").read_text())
    assert made is not None
    assert "/var/lib/opad/cache/compiled" in made[1].split()  # the volume gets this folder's owner


def test_the_default_word_list_refuses_nothing() -> None:
    DeniedWords.read(REPOSITORY / "docker" / "denied-words.txt").refuse("prompt", "one word or phrase on each line")


def test_the_worker_compose_file_names_a_missing_setting() -> None:
    text = (REPOSITORY / "compose.worker.yaml").read_text()
    for name in ("OPAD_DATABASE_URL", "OPAD_REDIS_URL", "OPAD_S3_ENDPOINT", "OPAD_S3_SECRET_KEY"):
        assert re.search(rf"\$\{{{name}:\?is not set; give \S+", text)


def test_only_engines_mount_the_key_that_signs_images() -> None:
    services = yaml.load((REPOSITORY / "docker-compose.yml").read_text(), _Loader)["services"]
    mounted = {
        name: volume for name, service in services.items() for volume in map(str, service.get("volumes", []))
        if volume.startswith("signing:")
    }  # fmt: skip
    assert mounted == {"secrets": "signing:/run/opad-signing", "engine": "signing:/run/opad-signing:ro"}
    keys = {name for name, service in services.items() if "OPAD_C2PA_KEY" in (service.get("environment") or {})}
    assert keys == {"engine"}
    certificate = services["api"]["environment"]["OPAD_C2PA_CERT"]
    assert certificate == services["engine"]["environment"]["OPAD_C2PA_CERT"]
