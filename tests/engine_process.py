"""An engine in its own process on a socket, as `opad up` starts it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api.domain.settings import Settings
from worker.stack.embedded import environment


@contextmanager
def engine_process(settings: Settings, address: Path) -> Iterator[subprocess.Popen[str]]:
    """Start an engine and yield its process when it is ready. Kills it at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.inference", "--bind", f"unix:{address}"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment(settings), "OPAD_BASE": settings.base, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    log = []
    try:
        for line in process.stdout:
            log.append(line)
            if "Application startup complete" in line:
                break
        assert process.poll() is None, log
        yield process
    finally:
        process.kill()
        process.communicate()
