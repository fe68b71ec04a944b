"""The Celery worker of a trainer host. Its only task trains the job that a notification names.

A notification is acknowledged before the work and may be lost or delivered twice: the database decides who trains a
job, and the poll of `worker.host`, which starts this process, finds jobs whose notification was lost. So there are no
results, no late acknowledgments and no prefetching. The pool's only child imports no torch; it starts the trainer and
waits for it.
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
from api.domain.environment import read_settings
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
    settings = read_settings("database_url", "redis_url")
    parent = os.getpid()

    def die_with_worker(**_: Any) -> None:
        """End the pool's child with its parent. The child is forked, so `dies_with_parent` does not apply to it."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    def leave_logs_alone(**_: Any) -> None:
        configure_logs(settings.log_level)

    signals.setup_logging.connect(leave_logs_alone, weak=False)
    signals.worker_process_init.connect(die_with_worker, weak=False)
    # Celery warns when it runs as root, because messages may be pickled. Ours are JSON.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # Gossip, mingle and heartbeats serve clusters. Without them a worker reconnected more reliably in tests.
    options = ["--pool=prefork", "--concurrency=1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    queues = ",".join(map(notify_queue, settings.trains or get_args(Preset)))
    create_app(settings).worker_main(["--quiet", "worker", f"--queues={queues}", *options])


if __name__ == "__main__":
    main()
