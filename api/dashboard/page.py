"""Parts that all pages share: the signed-in viewer, templates and their filters, and errors shown as pages."""

import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute
from markupsafe import Markup
from starlette.templating import Jinja2Templates

from api.auth import Caller, caller_of_session, csrf_token, session_token
from api.domain.commands import runnable
from api.domain.engine_level import LEVELS
from api.domain.errors import DomainError
from api.domain.provenance import MARKS_IN_WORDS
from api.errors import STATUS
from api.public_address import link, root
from api.services import SessionDep

HERE = Path(__file__).parent
SIGN_IN = "/dashboard/sign-in"

templates = Jinja2Templates(directory=HERE / "templates")


@dataclass(frozen=True)
class Viewer:
    who: Caller
    csrf: str


class SignedOut(Exception):
    """The request has no session, or the session has ended."""


async def _viewer(request: Request, session: SessionDep) -> Viewer:
    token = session_token(request)
    who = await caller_of_session(session, token) if token else None
    if token is None or who is None:
        raise SignedOut
    return Viewer(who, csrf_token(token))


ViewerDep = Annotated[Viewer, Depends(_viewer)]


class PageRoute(APIRoute):
    """A route that shows errors as pages, and redirects to the sign-in page and back if there is no session."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                return await handle(request)
            except SignedOut:
                return _to_sign_in(request)
            except RequestValidationError:
                return refusal(request, 404, "There is no such page; a part of the address is invalid.")
            except DomainError as error:
                status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
                return refusal(request, status, error.message)

        return shown


def _to_sign_in(request: Request) -> Response:
    address = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    target = SIGN_IN if address == "/dashboard" else f"{SIGN_IN}?next={quote(address)}"
    if "hx-request" in request.headers:  # htmx refreshes a part of the page: redirect the whole page
        return Response(headers={"HX-Redirect": link(SIGN_IN)})
    return RedirectResponse(link(target), 303)


def refusal(request: Request, status: int, message: str) -> Response:
    return bare_page(request, "refusal.html", status=status, message=message)


def bare_page(request: Request, name: str, *, status: int = 200, **context: Any) -> Response:
    """Render a page that needs no session."""
    return templates.TemplateResponse(request, name, context, status_code=status, headers={"Cache-Control": "no-store"})


def page(request: Request, viewer: Viewer, name: str, **context: Any) -> Response:
    """Render a page for the signed-in viewer."""
    return bare_page(request, name, viewer=viewer.who, csrf=viewer.csrf, **context)


def _when(value: datetime | str | None) -> str | Markup:
    """Render a time. app.js shows it in local time; without script it is UTC. A string is ISO 8601."""
    if value is None:
        return "–"
    utc = (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(), f"{utc:%Y-%m-%d %H:%M:%S} UTC", f"{utc:%d %b %H:%M}"
    )


def _size(number: float | None) -> str:
    if number is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _seconds(value: float) -> str:
    """Render a measured time: more digits than `_duration`, so that parts can be compared."""
    if value < 100:
        return f"{value:.1f} s" if value >= 0.1 else f"{1000 * value:.0f} ms"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds} s"


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.1%}"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _tojson_plain(value: Any) -> str:
    """Render JSON for code to copy. The template escapes it as text; Jinja's `tojson` escapes for scripts."""
    return json.dumps(value, ensure_ascii=False)


def _setting(value: Any) -> str:
    """Render a setting of the method: yes or no, a short number, or the items of a list."""
    if isinstance(value, list | tuple):
        return ", ".join(_setting(item) for item in value) or "the base's own"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _commands(sentence: str) -> Markup:
    """Render text between backticks as code, and commands so that they run where the service was started."""
    pieces = runnable(sentence).split("`")
    parts = (Markup("<code>{}</code>" if n % 2 else "{}").format(part) for n, part in enumerate(pieces))
    return Markup("").join(parts)


def _level(level: str, reason: str | None) -> str:
    """Render the level of an engine, and why it is not compiled."""
    words = LEVELS[level]
    return words if reason is None else Markup("{}: {}").format(words, _commands(reason))


def _marks(marks: str, reason: str | None) -> str:
    """Render how an engine marks its images, and why it does not sign them although it should."""
    return f"{MARKS_IN_WORDS[marks]}{f': {reason}' if reason else ''}"


_FILTERS: dict[str, Callable[..., str]] = {
    "tojson_plain": _tojson_plain,
    "when": _when,
    "size": _size,
    "duration": _duration,
    "seconds": _seconds,
    "ms": _milliseconds,
    "percent": _percent,
    "pretty": _pretty,
    "setting": _setting,
    "commands": _commands,
    "level": _level,
    "marks": _marks,
}
templates.env.filters |= _FILTERS
templates.env.globals["root"] = root
