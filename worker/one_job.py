"""One training and no more, for schedulers that start a pod for each waiting job: `python -m worker.one_job`.

Ends with 0 also when there was nothing to take, or another took it: the database knows what is left to do, and the
scheduler looks there. SIGTERM: the trainer commits a checkpoint and gives its job back.
"""

import os
import signal
import sys
from types import FrameType

from api.domain.database import make_sessions
from api.domain.logs import configure_logs
from api.domain.settings import Settings
from worker.claiming import train_next
from worker.slot import trainer_pid


def main() -> int:
    settings = Settings()
    configure_logs(settings.log_level)

    def stop(signum: int, frame: FrameType | None) -> None:
        """Again every second: the trainer may be just starting. Without a job this process ends by itself."""
        pid = trainer_pid(settings.home)
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
        signal.alarm(1)

    for request in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(request, stop)
    train_next(settings, make_sessions(settings))
    signal.alarm(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
