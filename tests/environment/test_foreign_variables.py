"""The service, its commands and the demo beside the variables of other software.

Nothing may reach the proxy: photos, keys and checks of our own servers stay on this machine. Each of the variables
alone once stopped the start; those that mask others have a start of their own.
"""

import json
import sys
from pathlib import Path

import httpx
import pytest

from api.read_marks import read_marks
from tests.api.reference_images import reference
from tests.environment.conftest import AUTHORITIES, Proxy, run, started, variables
from worker.stack.home import published_environment
from worker.stack.launcher import READY
from worker.stack.servers import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FOREIGN = dict.fromkeys(AUTHORITIES, "/nowhere/authorities.pem") | {
    "AWS_PROFILE": "nobody", "AWS_MAX_ATTEMPTS": "many", "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_CA_BUNDLE": "/nowhere/aws.pem", "AWS_REQUEST_CHECKSUM_CALCULATION": "sometimes",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0", "CELERY_BROKER_WRITE_URL": "redis://127.0.0.1:1/0",
    "CELERY_LOADER": "nowhere.Loader",
    "PGOPTIONS": "-c statement_timeout=soon", "PGCHANNELBINDING": "require", "PGSSLMODE": "verify-full",
    "PGTZ": "Nowhere/Never", "PGCLIENTENCODING": "KLINGON", "PGPORT": "1", "PGDATA": "/nowhere",
    "WEED_JWT_SIGNING_KEY": "of another store", "WEB_CONCURRENCY": "many",
}  # fmt: skip


def proxies_of(address: str) -> dict[str, str]:
    schemes = {"HTTP_PROXY": "http", "HTTPS_PROXY": "http", "ALL_PROXY": "socks5"}
    return {name: f"{scheme}://{address}" for upper, scheme in schemes.items() for name in (upper, upper.lower())}


@pytest.fixture
def broken_aws_config(tmp_path: Path) -> Path:
    file = tmp_path / "aws-config"
    file.write_text("[profile of somebody\n")
    return file


def test_a_service_its_commands_and_an_api_of_its_own_use_no_proxy_and_no_foreign_variable(
    short_folder, tmp_path, base, proxy: Proxy, broken_aws_config
):
    home = short_folder / "foreign"
    port, own_port = free_ports(2)
    env = variables(home, base, **FOREIGN, **proxies_of(proxy.address))
    env |= {"OPAD_PORT": str(port), "AWS_CONFIG_FILE": str(broken_aws_config)}
    with started(sys.executable, "-m", "worker.cli", "up", env=env, until=READY):
        key = (home / "admin-key").read_text().strip()
        for command in (["doctor"], ["retention", "--preview"], ["backup", tmp_path / "backup.tar"], ["key", "create"]):
            done = run("worker.cli", *command, env=env)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        own = env | published_environment(home) | {"OPAD_PORT": str(own_port)}
        with (
            started(sys.executable, "-m", "api", env=own, until="Uvicorn running"),
            httpx.Client(base_url=f"http://127.0.0.1:{own_port}", trust_env=False, timeout=60) as client,
        ):
            client.headers["Authorization"] = f"Bearer {key}"
            answer = client.post(
                "/v1/concepts",
                data={"name": "private", "class_noun": "dog", "consent": "true"},
                files=[("images", (f"{number}.jpg", reference(number), "image/jpeg")) for number in range(3)],
            )
            assert answer.status_code == 202, answer.text
    assert proxy.came == []


MASKING = {"PGSERVICE": "nowhere", "PGSERVICEFILE": "/nowhere", "AWS_CONFIG_FILE": "/nowhere"}
"""Variables whose error hides those of others."""


def test_the_demo_sends_photos_and_key_to_no_proxy(short_folder, tmp_path, base, proxy: Proxy, oddly_named_photos):
    env = variables(short_folder / "demo", base, **MASKING, **proxies_of(proxy.address))
    out = tmp_path / "demo"
    options = ("--images", oddly_named_photos, "--class", "mug", "--iterations", "1", "--out", out)
    done = run("worker.demo", *options, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((out / "report.json").read_text())["iterations"] > 0
    seeds = [read_marks(file.read_bytes(), trusted="")["origin"]["seed"] for file in out.glob("untouched-*.png")]
    assert seeds, "the files of the service, with its marks"
    assert set(seeds) == {"100"}
    assert read_marks((out / "sheet.png").read_bytes(), trusted="")["xmp"]
    assert proxy.came == []
