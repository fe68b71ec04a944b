import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs
from tenacity import Retrying, stop_after_attempt, wait_none

from worker.retries import log_retry


def test_the_log_names_the_cause_and_not_the_statement_that_failed():
    def fail():
        raise OperationalError("SELECT secret", {"name": "alice"}, ConnectionError("the server went away"))

    retrying = Retrying(stop=stop_after_attempt(2), wait=wait_none(), before_sleep=log_retry("x.retried"), reraise=True)
    with capture_logs() as lines, pytest.raises(OperationalError):
        retrying(fail)
    assert [(line["event"], line["error"], line["log_level"]) for line in lines] == [
        ("x.retried", "the server went away", "warning")
    ]
