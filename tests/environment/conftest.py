"""Programs of ours in the environment of somebody else."""

import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.random_base import write_random_base

REPOSITORY = Path(__file__).parents[2]
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
SECONDS = 120
"""For a start with every program, which imports torch, on a busy machine."""


class Proxy(socketserver.ThreadingTCPServer):
    """Stores the beginning of everything that is sent to it, and hangs up."""

    def __init__(self) -> None:
        self.came: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Conversation)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Conversation(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.server.came.append(self.request.recv(4096))


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def base(short_folder: Path) -> Path:
    return write_random_base(short_folder / "environment-base")


@pytest.fixture
def oddly_named_photos(tmp_path: Path) -> Path:
    """A folder with three photos. Neither its name nor theirs is UTF-8."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "photos") + b"-\xe9t\xe9"))
    folder.mkdir()
    for number, name in enumerate((b"caf\xe9.png", b"\xff\xfe.png", b"plain.png")):
        Image.new("RGB", (64, 64), (80 * number, 90, 200)).save(os.fsencode(folder) + b"/" + name)
    return folder


def variables(home: Path, base: Path, **others: str) -> dict[str, str]:
    """Return an environment without proxies, for a service with this data folder."""
    names = {name for upper in PROXY_VARIABLES for name in (upper, upper.lower())}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    ours = {"OPAD_HOME": str(home), "OPAD_BASE": str(base), "OPAD_DEVICE": "cpu", "OPAD_PORT": "0"}
    return kept | ours | {"PYTHONPATH": str(REPOSITORY)} | others


def run(*arguments: str | Path, env: dict[str, str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of our modules to its end."""
    return subprocess.run(
        [sys.executable, "-m", *map(os.fspath, arguments)],
        env=env, cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False,
    )  # fmt: skip


@contextmanager
def started(*command: str, env: dict[str, str], until: str, folder: Path | None = None) -> Iterator[list[str]]:
    """Run a command for the length of the block, which begins when it prints a line with `until`. Yields the lines."""
    with subprocess.Popen(
        command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        try:
            for line in process.stdout:
                lines.append(line)
                if until in line:
                    break
            assert until in "".join(lines[-1:]), "".join(lines)
            threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True).start()
            yield lines
        finally:
            process.terminate()
            process.wait()
