"""Run one engine: `python -m worker.inference --bind unix:/path | host:port`."""

import argparse
import os
import socket
import sys
from pathlib import Path

import torch
import uvicorn

from api.domain.denied_words import DeniedWords
from api.domain.environment import end_with, read_settings
from api.domain.logs import configure_logs
from opad_core import OpadError, UnusableDeviceError, load_base
from worker.inference.app import create_app


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.inference", description=__doc__)
    parser.add_argument("--bind", default="127.0.0.1:8100", help="unix:/path or host:port (default %(default)s)")
    bind = parser.parse_args().bind
    settings = read_settings("database_url", "s3_endpoint")
    configure_logs(settings.log_level)
    try:
        load_base(
            settings.base, bases=settings.bases, device=settings.device
        )  # reads only the manifest; the app loads the networks
        DeniedWords.read(settings.denied_words)
    except OSError as error:
        end_with(f"OPAD_DENIED_WORDS: {error}")
    except UnusableDeviceError as error:
        end_with(f"OPAD_DEVICE: {error}")
    except OpadError as error:
        end_with(f"OPAD_BASE: {error}; set OPAD_BASE to nano or to a base's folder")
    leave_a_core()
    # on SIGTERM uvicorn finishes the accepted requests, then the lifespan ends and closes the queue
    config = uvicorn.Config(create_app(settings, bind=bind), log_config=None, access_log=False, lifespan="on")
    with listening_socket(bind) as listener:
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def leave_a_core() -> None:
    """Let PyTorch use all cores but one, which the api, the database and the encoders here need.

    PyTorch's threads wait for each other after every operation. On a machine with 2 cores, one thread instead of two
    raised throughput from 70 to 76 images per second, from 61 to 76 at three times the load, and reduced the latency of
    a single image from 59 to 40 ms (bench/load.py).
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))


def listening_socket(bind: str) -> socket.socket:
    """Return a bound socket. A unix socket is closed to other users; one made by uvicorn would be open to all."""
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
