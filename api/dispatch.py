"""Ring the workers' doorbell. The job is already a committed row: a lost ring costs a few seconds of polling."""

from uuid import UUID

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from api.domain import failpoints
from api.domain.jobs import RING_TASK, ring_queue
from api.domain.settings import Settings

log = structlog.get_logger()


def create_doorbell(settings: Settings) -> Celery:
    """A publisher only. Every wait is cut at half a second and nothing is retried: the reconciler rings again."""
    doorbell = Celery("opad", broker=settings.redis_url, set_as_current=False)
    doorbell.conf.update(
        task_ignore_result=True,
        task_publish_retry=False,
        broker_connection_timeout=0.5,
        broker_transport_options={"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "max_retries": 0},
    )
    return doorbell


def ring(doorbell: Celery, job_id: UUID, preset: str) -> None:
    """Blocking, at most about a second; run as a background task, after the answer."""
    failpoints.reach("job.unrung")
    try:
        doorbell.send_task(RING_TASK, [str(job_id)], queue=ring_queue(preset))
    except OperationalError as error:
        log.warning("job.ring_lost", job_id=str(job_id), error=str(error))
        return
    log.info("job.rung", job_id=str(job_id))
