"""The receiver of notifications on a trainer host: a Celery worker whose one task trains the job it is told of.

The message is acknowledged before the work and may be lost or doubled: the database decides who works, and the poll of
`worker.host`, which starts this process, finds the jobs of lost notifications. So there are no results, late acks or
prefetching.
The pool's one child imports no torch; it waits for the trainer that it executes.
"""

import ctypes
import os
import signal
import sys
import warnings
from typing import Any, get_args
from uuid import UUID

from celery import Celery, signals
from celery.exceptions import SecurityWarning

from api.domain.database import make_sessions
from api.domain.jobs import NOTIFY_TASK, notify_queue
from api.domain.logs import configure_logs
from api.domain.settings import Preset, Settings
from worker.claiming import train_next
from worker.stack.parent_death import PR_SET_PDEATHSIG


def create_app(settings: Settings) -> Celery:
    if settings.redis_url is None:
        raise ValueError("OPAD_REDIS_URL is not set; start the embedded servers with `opad up` or set it")
    app = Celery("opad", broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        task_acks_late=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_keepalive": True, "health_check_interval": 25},
    )

    def train(job_id: str) -> None:
        train_next(settings, make_sessions(settings), job_id=UUID(job_id))

    app.task(train, name=NOTIFY_TASK)
    return app


def main() -> None:
    settings = Settings()
    parent = os.getpid()

    def die_with_worker(**_: Any) -> None:
        """For the pool's child, which is forked and not executed: it ends with its parent, too."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    def leave_logs_alone(**_: Any) -> None:
        configure_logs(settings.log_level)

    signals.setup_logging.connect(leave_logs_alone, weak=False)
    signals.worker_process_init.connect(die_with_worker, weak=False)
    # Its messages are JSON, so that being root, as in a container, does no harm.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # Gossip, mingle and heartbeats serve clusters; without them a worker was seen to reconnect more surely.
    options = ["--pool=prefork", "--concurrency=1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    queues = ",".join(map(notify_queue, settings.trains or get_args(Preset)))
    create_app(settings).worker_main(["--quiet", "worker", f"--queues={queues}", *options])


if __name__ == "__main__":
    main()
