"""Log lines for calls that tenacity repeats."""

from collections.abc import Callable

import structlog
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState

log = structlog.get_logger()


def log_retry(event: str) -> Callable[[RetryCallState], None]:
    """Return a `before_sleep` hook that logs the error of the last try and how long the call has failed."""

    def write(state: RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        reason = error.orig if isinstance(error, DBAPIError) else error  # SQLAlchemy's text holds the whole statement
        log.warning(event, error=str(reason), seconds=round(state.seconds_since_start or 0, 1))

    return write
