"""A trainer host: `python -m worker.host`. It runs a Celery worker in another process and polls the database.

A notification starts a training within milliseconds, in the child of the Celery worker. The poll, every `poll_seconds`,
trains jobs whose notification was lost, came while the host was busy, or could not be sent. Both take the same slot, so
one training runs at a time. A host that has had no job for a while checks the base's weights, once for each base. On
SIGTERM or SIGINT the Celery worker takes no more notifications, and the trainer commits a checkpoint and gives its job
back.
"""

import select
import signal
import socket
import subprocess
import sys
import time
from types import FrameType

import structlog
from sqlalchemy.exc import OperationalError

from api.domain.database import make_sessions
from api.domain.environment import read_settings
from api.domain.logs import configure_logs
from api.domain.settings import Settings
from worker.claiming import train_next
from worker.heartbeat import ProcessHeartbeat, machine_facts
from worker.idle_check import check_base
from worker.slot import stop_trainer
from worker.stack.parent_death import dies_with_parent

log = structlog.get_logger()


class Host:
    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self._name = settings, name
        self._started_at = time.monotonic()
        self._sessions = make_sessions(settings)
        self._stopping = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)

    def run(self) -> int:
        """Run until a signal and return 0, or until the Celery worker ends and return 1."""
        signal.set_wakeup_fd(self._wake_writer.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for request in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(request, self._stop)
        celery = subprocess.Popen(dies_with_parent(sys.executable, "-m", "worker.celery_app"), start_new_session=True)
        log.info("host.started", poll_seconds=self._settings.poll_seconds)
        while not self._stopping and celery.poll() is None:
            self._poll()
        celery.terminate()
        code = celery.wait()
        signal.alarm(0)
        log.info("host.stopped", celery=code)
        return 0 if self._stopping else 1

    def _poll(self) -> None:
        try:
            while not self._stopping and train_next(self._settings, self._sessions):
                pass
            if not self._stopping and time.monotonic() - self._started_at >= self._settings.check_base_after_seconds:
                check_base(self._settings, self._sessions, host=self._name, should_stop=lambda: self._stopping)
        except OperationalError as error:
            log.warning("host.database_unreachable", error=str(error.orig))
        self._wait(self._settings.poll_seconds)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        """Ask the trainer to stop. A wait for the trainer continues until it has ended.

        Repeated every second by SIGALRM, because a trainer may be starting here or in the Celery worker's child.
        """
        self._stopping = True
        stop_trainer(self._settings.home)
        signal.alarm(1)

    def _wait(self, seconds: float) -> None:
        """Wait for a signal, such as a child's end, or `seconds`."""
        select.select([self._wake_reader], [], [], seconds)
        try:
            self._wake_reader.recv(4096)
        except BlockingIOError:
            return


def main() -> int:
    settings = read_settings("database_url", "redis_url", "s3_endpoint")
    configure_logs(settings.log_level)
    facts = {"base": settings.base, "device": settings.device}
    name = f"{socket.gethostname()}:{settings.home}"
    with ProcessHeartbeat(
        make_sessions(settings),
        kind="trainer",
        name=name,
        facts=lambda: facts | machine_facts(settings),
    ):
        return Host(settings, name).run()


if __name__ == "__main__":
    sys.exit(main())
