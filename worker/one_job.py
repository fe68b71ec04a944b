"""Train at most one job and exit: `python -m worker.one_job`, for schedulers that start a pod for each waiting job.

The exit status is 0 even if there was no job to take, because the scheduler counts waiting jobs in the database. On
SIGTERM the trainer commits a checkpoint and gives its job back.
"""

import signal
import sys
from types import FrameType

from api.domain.database import make_sessions
from api.domain.environment import read_settings
from api.domain.logs import configure_logs
from worker.claiming import train_next
from worker.slot import stop_trainer


def main() -> int:
    settings = read_settings("database_url", "s3_endpoint")
    configure_logs(settings.log_level)

    def stop(signum: int, frame: FrameType | None) -> None:
        """Ask the trainer to stop. Repeated every second by SIGALRM, because the trainer may still be starting."""
        stop_trainer(settings.home)
        signal.alarm(1)

    for request in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(request, stop)
    train_next(settings, make_sessions(settings))
    signal.alarm(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
