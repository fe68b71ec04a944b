"""The one-shot that fetches a base, tested with a mirror of small networks. It needs no GPU and no hub."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docker.stack import PROJECT, Stack, run
from tests.hub_mirror import write_mirror

COMPOSE = ("docker", "compose", "-p", f"{PROJECT}-models", "-f", "docker-compose.yml", "-f", "compose.gpu.yaml")


@pytest.fixture
def fetch(stack: Stack, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Run the service in a separate project, so that its volume is empty at first."""
    mirror = tmp_path / "mirror"
    write_mirror(mirror)
    for path in (mirror, *mirror.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    tmp_path.chmod(0o755)
    run(*COMPOSE, "down", "--volumes")  # left by an interrupted run

    def fetch(*command: str) -> str:
        options = ("--rm", "-T", "-v", f"{mirror}:/mirror:ro", "-e", "OPAD_FETCH_FROM=/mirror")
        return run(*COMPOSE, "run", *options, "fetch-models", *command)

    yield fetch
    run(*COMPOSE, "down", "--volumes")


@pytest.mark.timeout(600)
def test_a_base_is_fetched_once_and_progress_is_printed(fetch: Callable[..., str]) -> None:
    output = fetch()
    assert "stabilityai/sd-turbo" in output
    assert "of 0.0 GB: " in output  # small networks
    assert "use it with --base sd-turbo" in output
    assert "GB" not in fetch()
    listed = fetch("ls", "-ln", "/var/lib/opad/bases/sd-turbo")
    assert "manifest.json" in listed
    assert " 10001 " in listed
