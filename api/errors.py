"""Return every error as problem+json (RFC 9457). Only this file maps domain errors to HTTP status codes."""

import errno
import http
import re
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from api import refusals
from api.domain import errors
from api.domain.storage import ObjectDamaged, ObjectDiffers, ObjectMissing, StorageUnavailable, StoreClockDiffers

log = structlog.get_logger()

STATUS: dict[type[errors.DomainError], int] = {
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Invalid: 422,
    errors.Malformed: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.TooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.NotAcceptable: 406,
    errors.TooManyRequests: 429,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
}

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a used quota, and the limit of a process (`ulimit -f`)."""
_OPENAI_PATHS = re.compile(r"/v1/(images|models)(/.*)?", re.DOTALL)
"""On these paths, with or without a route, an error is repeated in `error`, where OpenAI's clients read it."""

_HTTP_CODES = {
    400: "bad_request",
    404: "no_such_route",
    405: "method_not_allowed",
    408: "too_slow",
    413: "body_too_large",
}


def problem(
    request: Request, status: int, code: str, detail: str, headers: dict[str, str] | None = None, **context: Any
) -> JSONResponse:
    body = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request.state.request_id,
        **context,
    }
    if _OPENAI_PATHS.fullmatch(request.url.path):
        kind = "server_error" if status >= 500 else "invalid_request_error"
        wrong = context.get("errors") or [{"field": None}]
        body["error"] = {"message": detail, "type": kind, "param": wrong[0]["field"], "code": code}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    app.add_exception_handler(errors.DomainError, _domain_error)
    app.add_exception_handler(StorageUnavailable, _storage_unreachable)
    for damage in (ObjectMissing, ObjectDamaged, ObjectDiffers):
        app.add_exception_handler(damage, _object_damaged)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OperationalError, _database_error)
    app.add_exception_handler(PoolTimeout, _database_error)
    app.add_exception_handler(DataError, _unstorable_value)
    app.add_exception_handler(OSError, _disk_full)
    app.add_exception_handler(Exception, _unexpected_error)


async def _domain_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.DomainError)
    headers = {}
    if isinstance(error, (errors.Unavailable, errors.TooManyRequests)):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="opad"'
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    answer = problem(request, status, error.code, error.message, headers, **error.context)
    answer.background = refusals.recording(request, error)
    return answer


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [{"field": _field(e["loc"]), "message": _sentence(e)} for e in error.errors()]
    first = error.errors()[0]  # its location ends with a position in the text when the body as a whole is not JSON
    unreadable = first["type"] == "json_invalid" and isinstance(first["loc"][-1], int)
    status, code = (400, "malformed_json") if unreadable else (422, "invalid_request")
    detail = "; ".join(f"{e['field']}: {e['message']}" for e in found)
    return problem(request, status, code, detail, errors=found)


def _field(location: Sequence[str | int]) -> str:
    """Turn `("body", "images", 2)` into `images[2]`, without the part of the request it came from."""
    name = ""
    for part in location[1:] if len(location) > 1 else location:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name


def _sentence(error: dict[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "is not a known field; remove it or check its spelling"
    if error["type"] == "json_invalid":
        return f"is not valid JSON ({error['ctx']['error']})"
    return str(error["msg"]).removeprefix("Value error, ")


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer Starlette's own errors: no such route, wrong method, malformed or too large body."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    detail = {
        404: f"there is no route {request.url.path}; /docs lists all routes",
        405: f"{request.url.path} does not support {request.method}; see /docs",
        413: "the request body is larger than this route accepts",
    }.get(status, error.detail)
    code = _HTTP_CODES.get(status, http.HTTPStatus(status).phrase.lower().replace(" ", "_"))
    return problem(request, status, code, detail, dict(error.headers or {}))


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    log.error("database.unreachable", request_id=request.state.request_id, error=type(error).__name__)
    detail = "the database does not answer; nothing was changed, try again in a few seconds"
    return problem(request, 503, "database_unreachable", detail, {"Retry-After": "5"})


async def _unstorable_value(request: Request, error: Exception) -> JSONResponse:
    """Answer for a value that a schema allows and no column can hold: a text with NUL, a number that is too large."""
    detail = "a text contains a NUL character, or a number is larger than any that is stored here; correct it"
    return problem(request, 422, "unstorable_value", detail)


async def _storage_unreachable(request: Request, error: Exception) -> JSONResponse:
    log.error("storage.unreachable", request_id=request.state.request_id, error=str(error))
    if isinstance(error, StoreClockDiffers):
        return problem(request, 503, error.code, error.message, {"Retry-After": "60"})
    detail = "the object store does not answer; nothing was changed, try again in a few seconds"
    return problem(request, 503, "storage_unreachable", detail, {"Retry-After": "5"})


async def _disk_full(request: Request, error: Exception) -> JSONResponse:
    """Answer while no file can be written here, such as a photo that comes in. Other errors are unexpected."""
    assert isinstance(error, OSError)
    if error.errno not in _FULL:
        raise error
    log.error("disk.full", request_id=request.state.request_id, error=str(error))
    detail = "this service has no space for the files of a request; nothing was changed, try again in a minute"
    return problem(request, 503, "disk_full", detail, {"Retry-After": "60"})


async def _object_damaged(request: Request, error: Exception) -> JSONResponse:
    """Answer for an object that its row names and the store lacks or has changed. Its key stays in the log."""
    log.error("storage.damaged", request_id=request.state.request_id, error=str(error))
    detail = f"a stored file is missing or damaged; look for request {request.state.request_id} in the log"
    return problem(request, 500, "stored_file_damaged", detail)


async def _unexpected_error(request: Request, error: Exception) -> JSONResponse:
    """Answer without the trace. Starlette raises the error again afterwards, so the server's log has it."""
    detail = f"the service failed; look for request {request.state.request_id} in the log"
    return problem(request, 500, "internal", detail)
