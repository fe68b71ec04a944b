"""`python -m worker.inference --bind unix:/path | host:port`: one engine."""

import argparse
import os
import socket
import sys
from pathlib import Path

import torch
import uvicorn

from api.domain.logs import configure_logs
from api.domain.settings import Settings
from opad_core import OpadError, load_base
from worker.inference.app import create_app


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.inference", description=__doc__)
    parser.add_argument("--bind", default="127.0.0.1:8100", help="unix:/path or host:port (default %(default)s)")
    bind = parser.parse_args().bind
    settings = Settings()
    configure_logs(settings.log_level)
    try:
        load_base(settings.base, device=settings.device)  # reads the manifest; the app loads the networks
    except OpadError as error:
        print(f"the engine cannot start: {error}; set OPAD_BASE to nano or to a base's folder", file=sys.stderr)
        return 1
    leave_a_core()
    # uvicorn waits on SIGTERM for the requests it has taken, then the lifespan ends and closes the queue
    config = uvicorn.Config(create_app(settings, bind=bind), log_config=None, access_log=False, lifespan="on")
    with listening_socket(bind) as listener:
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def leave_a_core() -> None:
    """To what else draws on a CPU: the api, the database, this process's own encoders.

    PyTorch takes all cores, and its threads wait for one another at every operation: on two cores, with one of them the
    model drew 76 pictures a second instead of 70, as many when asked for three times that, instead of 61, and one alone
    came after 40 ms instead of 59 (bench/load.py).
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))


def listening_socket(bind: str) -> socket.socket:
    """Bound, and for a unix socket closed to other users: uvicorn itself would open one to everybody."""
    if bind.startswith("unix:"):
        path = Path(bind.removeprefix("unix:"))
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        umask = os.umask(0o177)
        listener.bind(str(path))
        os.umask(umask)
        return listener
    host, _, port = bind.rpartition(":")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    return listener


if __name__ == "__main__":
    sys.exit(main())
