"""The admin dashboard: few server-rendered pages, kept live by one script over the public API."""

import hmac
import ipaddress
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from api.auth import (
    LIFETIME,
    Caller,
    caller_of_key,
    caller_of_session,
    cookie_name,
    csrf_token,
    hash_token,
    is_same_origin,
    session_token,
)
from api.db import SessionDep
from api.domain.errors import Forbidden, Unauthorized
from api.domain.models import Concept, DashboardSession, Job
from api.refusals import noting_sign_in
from api.routes.jobs import described_jobs

_HERE = Path(__file__).parent
_SHOWN_JOBS = 20
templates = Jinja2Templates(directory=_HERE / "templates")
router = APIRouter(include_in_schema=False)


def install_static(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")


@router.get("/")
async def root() -> Response:
    return RedirectResponse("/dashboard", 303)


@router.get("/favicon.ico")
async def favicon() -> Response:
    return FileResponse(_HERE / "static" / "favicon.svg", media_type="image/svg+xml")


@router.get("/dashboard")
async def overview(request: Request, session: SessionDep) -> Response:
    token = session_token(request)
    who = await caller_of_session(session, token) if token else None
    if token is None or who is None:
        return RedirectResponse("/dashboard/sign-in", 303)
    jobs = await described_jobs(session, Job.owner_id == who.owner_id, limit=_SHOWN_JOBS)
    concepts = await _concepts(session, who)
    return _page(
        request,
        "overview.html",
        csrf=csrf_token(token),
        jobs=jobs,
        references={concept.id: [r.position for r in concept.references] for concept in concepts},
        ready=[concept for concept in concepts if concept.bundles],
    )


async def _concepts(session: AsyncSession, who: Caller) -> list[Concept]:
    query = (
        select(Concept)
        .where(Concept.owner_id == who.owner_id)
        .order_by(Concept.id.desc())
        .limit(100)
        .options(selectinload(Concept.references), selectinload(Concept.bundles))
    )
    return list((await session.scalars(query)).all())


@router.get("/dashboard/sign-in")
async def sign_in_page(request: Request) -> Response:
    if not _is_private(request):
        return _insecure(request)
    return _page(request, "sign_in.html", message=None)


@router.post("/dashboard/sign-in")
async def sign_in(request: Request, session: SessionDep) -> Response:
    if not _is_private(request):
        return _insecure(request)
    if not is_same_origin(request):
        raise Forbidden("this form was sent by another site's page; sign in at /dashboard/sign-in", "foreign_origin")
    form = await request.form(max_files=0, max_fields=4, max_part_size=1024)
    text = str(form.get("key", "")).strip()
    try:
        who = await caller_of_key(session, text)
        if not who.may("read"):
            raise Forbidden("this key may not read; use another one", "missing_scope")
    except (Unauthorized, Forbidden) as error:
        status = 401 if isinstance(error, Unauthorized) else 403
        answer = _page(request, "sign_in.html", status=status, message=error.message)
        answer.background = noting_sign_in(request, text, error)
        return answer
    old = session_token(request)
    if old is not None:
        await _end_session(session, old)
    await session.execute(delete(DashboardSession).where(DashboardSession.created_at < func.now() - LIFETIME))
    token = secrets.token_urlsafe(32)
    session.add(DashboardSession(api_key_id=who.api_key_id, token_sha256=hash_token(token)))
    response = RedirectResponse("/dashboard", 303)
    secure = request.url.scheme == "https"
    response.set_cookie(cookie_name(secure), token, httponly=True, secure=secure, samesite="strict", path="/")
    return response


@router.post("/dashboard/sign-out")
async def sign_out(request: Request, session: SessionDep) -> Response:
    token = session_token(request)
    if token is not None:
        form = await request.form(max_files=0, max_fields=4, max_part_size=1024)
        sent = str(form.get("csrf", ""))
        if not is_same_origin(request) or not hmac.compare_digest(sent.encode(), csrf_token(token).encode()):
            raise Forbidden("this form did not come from the dashboard; reload the page", "bad_csrf_token")
        await _end_session(session, token)
    response = RedirectResponse("/dashboard/sign-in", 303)
    secure = request.url.scheme == "https"
    response.delete_cookie(cookie_name(secure), httponly=True, secure=secure, samesite="strict", path="/")
    return response


async def _end_session(session: AsyncSession, token: str) -> None:
    await session.execute(delete(DashboardSession).where(DashboardSession.token_sha256 == hash_token(token)))


def _is_private(request: Request) -> bool:
    """TLS, or a browser that reached us as localhost: there the key crosses no network in the clear.

    Only a browser's own page address counts, and no rebound name passes: the Host must be a loopback one.
    """
    if request.url.scheme == "https":
        return True
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _insecure(request: Request) -> Response:
    message = (
        "Signing in here would send your key over the network unencrypted. "
        "Use https, or open the dashboard on the machine itself (http://localhost)."
    )
    return _page(request, "sign_in.html", status=403, message=message, refused=True)


def _page(request: Request, name: str, *, status: int = 200, **context: Any) -> Response:
    return templates.TemplateResponse(request, name, context, status_code=status, headers={"Cache-Control": "no-store"})
