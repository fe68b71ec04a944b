"""Requeue lost jobs, repeat lost notifications, send webhooks and sweep old data: `python -m worker.reconcile`.

Every `reconcile_seconds` it requeues the jobs whose lease expired, or fails them if no attempt is left, and notifies
the hosts of waiting jobs. Several reconcilers may run; an advisory lock lets one sweep at a time. Every hour it deletes
objects that no row names (`worker.garbage`).
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from uuid import UUID

import structlog
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from api.domain import jobs
from api.domain.database import Sessions, make_sessions
from api.domain.environment import read_settings
from api.domain.logs import configure_logs
from api.domain.settings import Settings
from api.domain.storage import Storage, StorageUnavailable
from worker.celery_app import create_app
from worker.garbage import collect
from worker.nightly import sweep_nightly
from worker.webhooks import deliver_forever

log = structlog.get_logger()

_LOCK = 0x0FAD_0004
MAX_NOTIFICATIONS = 1000
"""Unread notifications of a queue before it is purged. Nobody reads them where pods run `worker.one_job`."""
COLLECT_SECONDS = 3600.0


def sweep(settings: Settings, sessions: Sessions) -> list[tuple[UUID, str]]:
    """Expire leases. Return the waiting jobs with their presets, or none while another reconciler sweeps."""
    with sessions.begin() as db:
        if not db.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
            return []
        expired = db.execute(
            jobs.expire_leases(lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts)
        ).all()
        waiting = [(job_id, preset) for job_id, preset in db.execute(jobs.waiting())]
    for job_id, fence, state in expired:
        log.warning("job.attempt_lost", job_id=str(job_id), fence=fence, cause="lost_worker", state=state)
    return waiting


def notify_workers(notifier: Celery, waiting: Iterable[tuple[UUID, str]]) -> None:
    """Notify the hosts of each waiting job. Skips a queue with unread notifications, which would only pile up."""
    with notifier.connection_for_write() as connection:
        for preset, of_preset in groupby(sorted(waiting, key=itemgetter(1)), key=itemgetter(1)):
            queue = jobs.notify_queue(preset)
            unread = connection.default_channel.queue_declare(queue).message_count
            if unread > MAX_NOTIFICATIONS:
                connection.default_channel.queue_purge(queue)
            if unread > 0:
                continue
            for job_id, _ in of_preset:
                notifier.send_task(jobs.NOTIFY_TASK, [str(job_id)], queue=queue, connection=connection)


def create_notifier(settings: Settings) -> Celery:
    """Return a Celery app that publishes and waits at most two seconds for a dead broker."""
    notifier = create_app(settings)
    notifier.conf.update(
        task_publish_retry=False,
        broker_connection_timeout=2,
        broker_transport_options={"socket_timeout": 2, "socket_connect_timeout": 2, "max_retries": 0},
    )
    return notifier


def main() -> None:
    settings = read_settings("database_url", "redis_url", "s3_endpoint")
    configure_logs(settings.log_level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # INFO logs the URLs of webhooks, which may hold tokens
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # a sweep is one transaction, so it may stop anywhere
    sessions, notifier = make_sessions(settings), create_notifier(settings)
    threading.Thread(target=_collect_forever, args=(settings, sessions), name="garbage", daemon=True).start()
    sender = threading.Thread(target=deliver_forever, args=(settings, sessions), name="webhooks", daemon=True)
    retention = threading.Thread(target=sweep_nightly, args=(settings, sessions), name="retention", daemon=True)
    sender.start()
    retention.start()
    log.info("reconciler.started", reconcile_seconds=settings.reconcile_seconds)
    while sender.is_alive() and retention.is_alive():  # otherwise exit, to be restarted
        try:
            waiting = sweep(settings, sessions)
            if waiting:
                notify_workers(notifier, waiting)
        except OperationalError as error:
            log.warning("reconciler.database_unreachable", error=str(error.orig))
        except BrokerError as error:
            log.warning("reconciler.broker_unreachable", error=str(error))
        time.sleep(settings.reconcile_seconds)
    sys.exit(1)


def _collect_forever(settings: Settings, sessions: Sessions) -> None:
    """Collect garbage every hour. A separate thread, because the sweeps must not wait for the store."""
    storage = Storage(settings)
    while True:
        try:
            collect(sessions, storage)
        except (StorageUnavailable, OperationalError) as error:
            log.warning("garbage.not_collected", error=str(error))
        time.sleep(COLLECT_SECONDS)


if __name__ == "__main__":
    main()
