"""Errors with a message for the person who asked. `api/errors.py` maps them to HTTP status codes."""

from typing import Any
from uuid import UUID


class DomainError(Exception):
    """An error with a stable `code` and a message that names the value and the remedy.

    `context` adds fields to the answer, for instance the job's state; never a secret or a key.
    """

    def __init__(self, message: str, code: str, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.context = context


class NotFound(DomainError):
    """The object does not exist or belongs to another owner; the answer is the same.

    `object_id` is the id that was asked for, if it is not in the route's path. It is not part of the answer.
    """

    def __init__(self, message: str, code: str, *, object_id: UUID | None = None, **context: Any) -> None:
        super().__init__(message, code, **context)
        self.object_id = object_id


class Conflict(DomainError):
    """The request is valid, but the current state forbids it."""


class Invalid(DomainError):
    """The request itself is invalid."""


NO_FAST_DECODER = "no_fast_decoder"
"""The code with which engine and api refuse the fast decoder on a base without one."""


class Malformed(DomainError):
    """The request's bytes are not in the format they claim to be."""


class Unauthorized(DomainError):
    """The credential is missing, unknown, expired or revoked."""


class Forbidden(DomainError):
    """The credential is valid and does not allow this."""


class TooLarge(DomainError):
    """More bytes than the installation accepts."""


class UnsupportedMedia(DomainError):
    """The file's format is not supported."""


class NotAcceptable(DomainError):
    """The requested format cannot hold the answer."""


class TooManyRequests(DomainError):
    """A limit is reached. Try again after `retry_after` seconds."""

    def __init__(self, message: str, code: str, *, retry_after: float, **context: Any) -> None:
        super().__init__(message, code, retry_after=retry_after, **context)
        self.retry_after = retry_after


class Unavailable(DomainError):
    """A part of the service does not answer or is busy. Try again after `retry_after` seconds."""

    def __init__(self, message: str, code: str, *, retry_after: float = 5, **context: Any) -> None:
        super().__init__(message, code, retry_after=retry_after, **context)
        self.retry_after = retry_after


class DeadlineExceeded(DomainError):
    """The work was not finished before its deadline."""
