"""The compose stack, built and started once and used from outside, for `make docker-test`. Not part of `make test`."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.docker.stack import Stack

if not os.environ.get("DOCKER_TEST"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Remove the stack with its volumes at the end. With DOCKER_TEST=keep it is left for the next run."""
    try:
        engine = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no program `docker` here; the compose stack was not tested")
    if engine.returncode != 0:
        pytest.skip(f"no Docker engine answers here; the compose stack was not tested ({engine.stderr.strip()})")
    stack = Stack(keep=os.environ["DOCKER_TEST"] == "keep")
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
