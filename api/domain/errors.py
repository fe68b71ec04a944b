"""What can go wrong, in words for the person who asked. HTTP numbers for these live in `api/errors.py` alone."""

from typing import Any
from uuid import UUID


class DomainError(Exception):
    """A refusal with a stable `code` and a sentence that names the value and the remedy.

    `context` are further facts of the answer (for instance the job's state); never a secret or a key.
    """

    def __init__(self, message: str, code: str, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.context = context


class NotFound(DomainError):
    """No such thing, or it belongs to another owner: no answer tells the two apart.

    `object_id` is what was asked for, where the route's path does not say; it is not part of the answer.
    """

    def __init__(self, message: str, code: str, *, object_id: UUID | None = None, **context: Any) -> None:
        super().__init__(message, code, **context)
        self.object_id = object_id


class Conflict(DomainError):
    """The request is right but the present state forbids it."""


class Invalid(DomainError):
    """The request itself is wrong."""


class Malformed(DomainError):
    """The request's bytes cannot be read as what they claim to be."""


class Unauthorized(DomainError):
    """No credential, or one that does not count (any more)."""


class Forbidden(DomainError):
    """A good credential that does not reach this far."""


class TooLarge(DomainError):
    """More bytes than the installation accepts."""


class UnsupportedMedia(DomainError):
    """A file in a format that is not read here."""


class NotAcceptable(DomainError):
    """The wanted answer format cannot carry the answer."""


class TooManyRequests(DomainError):
    """More than a limit allows for now; worth asking again after `retry_after` seconds."""

    def __init__(self, message: str, code: str, *, retry_after: float, **context: Any) -> None:
        super().__init__(message, code, retry_after=retry_after, **context)
        self.retry_after = retry_after


class Unavailable(DomainError):
    """A part we need does not answer or is busy; worth asking again after `retry_after` seconds."""

    def __init__(self, message: str, code: str, *, retry_after: float = 5, **context: Any) -> None:
        super().__init__(message, code, retry_after=retry_after, **context)
        self.retry_after = retry_after


class DeadlineExceeded(DomainError):
    """The work was begun but could not be finished in its time."""
