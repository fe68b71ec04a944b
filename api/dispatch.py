"""Notify the trainer hosts of a new job through Celery.

The job is already a committed row. A lost notification costs a few seconds: the hosts also poll the database.
"""

from uuid import UUID

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from api.domain import failpoints
from api.domain.jobs import NOTIFY_TASK, notify_queue
from api.domain.settings import Settings

log = structlog.get_logger()


def create_notifier(settings: Settings) -> Celery:
    """Create a Celery app that only publishes.

    Every wait ends after half a second and nothing is retried, because the reconciler notifies again.
    """
    notifier = Celery("opad", broker=settings.redis_url, set_as_current=False)
    notifier.conf.update(
        task_ignore_result=True,
        task_publish_retry=False,
        broker_connection_timeout=0.5,
        broker_transport_options={"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "max_retries": 0},
    )
    return notifier


def notify_workers(notifier: Celery, job_id: UUID, preset: str) -> None:
    """Send the job's id to the hosts of its preset. Blocks for about a second at most: run it after the answer."""
    failpoints.reach("job.notifying")
    try:
        notifier.send_task(NOTIFY_TASK, [str(job_id)], queue=notify_queue(preset))
    except OperationalError as error:
        log.warning("job.notify_failed", job_id=str(job_id), error=str(error))
        return
    log.info("job.notified", job_id=str(job_id))
