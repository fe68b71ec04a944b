"""`docker compose` for the tests, and a client of the published port."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from worker.demo import EXAMPLE

REPOSITORY = Path(__file__).parents[2]
PROJECT = "opad-test"
PORT, S3_PORT = 18000, 18333


class Stack:
    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._environment = {**os.environ, "OPAD_PORT": str(PORT), "OPAD_S3_PORT": str(S3_PORT)}
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=120, trust_env=False)

    def up(self, **scale: int) -> None:
        scales = [f"--scale={service}={count}" for service, count in scale.items()]
        self.compose("up", "--build", "--wait", "--wait-timeout", "300", *scales)
        if "Authorization" not in self.client.headers:
            self.client.headers["Authorization"] = f"Bearer {self._key()}"

    def _key(self) -> str:
        """Return the first key from the log, or a new one if the stack was already running."""
        found = re.search(r"opk_live_\w+", self.compose("logs", "migrate"))
        if found is None:
            assert self._keep, "the first admin key is in the log of `migrate`"
            create = ("python", "-m", "worker.cli", "key", "create", "--scopes", "admin")
            found = re.search(r"opk_live_\w+", self.compose("run", "--rm", "-T", "--no-deps", "reconciler", *create))
        assert found
        return found[0]

    def down(self) -> None:
        self.client.close()
        if not self._keep:
            self.compose("down", "--volumes", "--timeout", "30")

    def compose(self, *arguments: str) -> str:
        return run(*self._command(PROJECT), *arguments, env=self._environment)

    def pipe(self, *arguments: str, project: str = PROJECT, stdin: bytes = b"") -> bytes:
        """Run a compose command and return its standard output."""
        command = [*self._command(project), *arguments]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self._environment, input=stdin, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()[-4000:]
        return done.stdout

    def _command(self, project: str) -> list[str]:
        return ["docker", "compose", "-p", project, "-f", "docker-compose.yml", "-f", "tests/docker/compose.test.yaml"]

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return the output of `docker inspect` by service, including the one-shots, which have ended."""
        ids = self.compose("ps", "--all", "--quiet").split()
        return {container["Name"].lstrip("/"): container for container in json.loads(run("docker", "inspect", *ids))}

    def running(self, service: str = "") -> dict[str, dict[str, Any]]:
        return {
            name: container
            for name, container in self.containers().items()
            if container["State"]["Running"]
            and service in ("", container["Config"]["Labels"]["com.docker.compose.service"])
        }

    def kill(self, name: str) -> None:
        """Kill its process from the host, like a crash. After `docker kill` Docker would not restart it."""
        before = self.containers()[name]
        run(
            "docker", "run", "--rm", "--privileged", "--pid=host", "--user=0", "--entrypoint=sh", "opad-api",
            "-c", f"kill -9 {before['State']['Pid']}",
        )  # fmt: skip
        eventually(lambda: self.containers()[name]["RestartCount"] > before["RestartCount"], what=f"restart of {name}")

    def wait_healthy(self) -> None:
        def healthy() -> bool:
            states = [container["State"] for container in self.running().values()]
            return all(state.get("Health", {"Status": "healthy"})["Status"] == "healthy" for state in states)

        eventually(healthy, what="health of all")

    def exec(self, name: str, *command: str, check: bool = True) -> str:
        return run("docker", "exec", name, *command, check=check)

    def learn(self, name: str, *, iterations: int) -> dict[str, Any]:
        """Create a concept and return its queued job."""
        photos = sorted(EXAMPLE.glob("*.png"))[:3]
        answer = self.client.post(
            "/concepts",
            data={
                "name": name,
                "class_noun": (EXAMPLE / "class.txt").read_text().strip(),
                "consent": "true",
                "overrides": json.dumps({"iterations": iterations, "collaborative_iterations": 1}),
            },
            files=[("images", (photo.name, photo.read_bytes())) for photo in photos],
        )
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()["job"]
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/jobs/{job_id}")
        assert answer.is_success, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def draw(self, concept: str, *, seed: int = 1) -> httpx.Response:
        body = {"concept": concept, "prompt": "a <concept> on the beach", "seed": seed}
        return self.client.post("/generate", json=body, headers={"Accept": "image/png"})


def run(*command: str, env: dict[str, str] | None = None, check: bool = True) -> str:
    done = subprocess.run(
        command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}"
    return done.stdout


def eventually(check: Callable[[], Any], *, what: str, seconds: float = 240) -> Any:
    """Call `check` until it returns something, and return that. Errors of a service that is away are ignored."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = check()
        except (httpx.TransportError, AssertionError) as error:
            found, error_seen = None, error
        else:
            error_seen = None
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s ({error_seen})"
        time.sleep(0.5)  # containers send no event to the tests
