"""How far the clocks of the parts are apart. Only the database's clock decides anything; the others are compared here.

`ahead` is in seconds: positive if the first clock shows a later time than the second.
"""

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import structlog
from botocore.auth import AUTH_TYPE_MAPS, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from sqlalchemy import Float, cast, func, select
from sqlalchemy.orm import Session

log = structlog.get_logger()

TOLERANCE_SECONDS = 60.0
"""Below this a difference is neither reported nor corrected. S3 refuses requests that are 15 minutes off."""

database_seconds = cast(func.extract("epoch", func.clock_timestamp()), Float)
"""The database's clock, as `time.time()` gives ours."""


def ahead_of_database(session: Session) -> float:
    before = time.time()
    theirs = session.scalars(select(database_seconds)).one()
    return (before + time.time()) / 2 - theirs


def is_wrong(ahead: float) -> bool:
    return abs(ahead) >= TOLERANCE_SECONDS


def difference(first: str, ahead: float, second: str) -> str:
    """Say which clock is off: `the clock of the api is 7200 s ahead of the database's`."""
    return f"the clock of {first} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} {second}'s"


class Watch:
    """Logs once when a clock becomes wrong, and once when it is right again."""

    def __init__(self, name: str, other: str) -> None:
        self._name, self._other = name, other
        self._was_wrong = False

    def note(self, ahead: float) -> None:
        if is_wrong(ahead) and not self._was_wrong:
            log.warning("clock.wrong", difference=difference(self._name, ahead, self._other))
        elif self._was_wrong and not is_wrong(ahead):
            log.info("clock.right", clock=self._name)
        self._was_wrong = is_wrong(ahead)


class StoreClock:
    """The object store's clock, learned from the Date of each answer. Requests and links are signed with it.

    Clients that share one must talk to the same store.
    """

    def __init__(self) -> None:
        self.ahead = 0.0
        """Seconds that the store's clock is ahead of ours; 0 within the tolerance, and before the first answer."""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead)

    def govern(self, client: Any) -> None:
        """Sign the client's requests with this clock, and repeat once what was refused before the clock was known."""
        AUTH_TYPE_MAPS.update(_SIGNERS)
        events = client.meta.events
        events.register_first("choose-signer.s3", lambda **_: _SIGNER)
        events.register("before-sign.s3", self._set_time)
        events.register("needs-retry.s3", self._learn)

    def _set_time(self, request: AWSRequest, **_: Any) -> None:
        request.context[_NOW] = self.now()

    def _learn(self, response: tuple[Any, Any] | None, **_: Any) -> int | None:
        """Read the Date of an answer. Return 0 to send the request again at once, None to leave that to others."""
        date = response and response[0].headers.get("Date")
        if not response or not date:
            return None
        try:
            ahead = parsedate_to_datetime(date).timestamp() - time.time()
        except ValueError:
            return None
        if not is_wrong(ahead):
            ahead = 0.0
        changed = is_wrong(ahead - self.ahead)
        self.ahead = ahead
        return 0 if changed and response[0].status_code == 403 else None


_SIGNER = "opad-s3v4"
_NOW = "opad_now"


class _Signer(S3SigV4Auth):
    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        _set_timestamp(request)
        super()._modify_request_before_signing(request)  # type: ignore[misc]  # the stubs leave it out


class _LinkSigner(S3SigV4QueryAuth):
    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        _set_timestamp(request)
        super()._modify_request_before_signing(request)  # type: ignore[misc]  # the stubs leave it out


def _set_timestamp(request: AWSRequest) -> None:
    """Replace the time that botocore has just read from our clock; everything that it signs reads it here."""
    request.context["timestamp"] = request.context[_NOW].strftime("%Y%m%dT%H%M%SZ")


_SIGNERS = {_SIGNER: _Signer, f"{_SIGNER}-query": _LinkSigner}
