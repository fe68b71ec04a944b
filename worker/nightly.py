"""The nightly retention sweep (`api.domain.retention`), in a thread of the reconciler."""

import time

import structlog
from sqlalchemy.exc import OperationalError

from api.domain import retention
from api.domain.database import Sessions
from api.domain.errors import Unavailable
from api.domain.settings import Settings
from api.domain.storage import Storage

log = structlog.get_logger()

_CHECK_SECONDS = 60.0


def sweep_nightly(settings: Settings, sessions: Sessions) -> None:
    """Check every minute if the day's sweep is due. After an outage the sweep is tried again an hour later."""
    storage = Storage(settings)
    while True:
        try:
            removed = retention.sweep_tonight(settings, sessions, storage)
            if removed is not None:
                log.info("retention.swept", removed=removed.sentence())
        except (OperationalError, Unavailable) as error:
            log.warning("retention.interrupted", error=type(error).__name__)
        time.sleep(_CHECK_SECONDS)
