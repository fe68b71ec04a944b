"""Sign in with an API key, and sign out. A cookie holds the session."""

import hmac
import secrets
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import delete, func
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import (
    LIFETIME,
    caller_of_key,
    cookie_name,
    csrf_token,
    hash_token,
    session_token,
)
from api.dashboard.page import SIGN_IN, PageRoute, bare_page
from api.domain import audit, keys
from api.domain.errors import Forbidden, TooManyRequests, Unauthorized
from api.domain.tables import DashboardSession
from api.loopback import is_loopback
from api.origin import is_same_origin
from api.public_address import link
from api.refusals import recording_of_sign_in
from api.services import Services, ServicesDep, SessionDep

TRIES_PER_MINUTE = 20
"""Sign-ins per address. A person mistypes twice, and every refused sign-in is a row of the audit log."""

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/dashboard/sign-in")
async def sign_in_page(request: Request, services: ServicesDep, session: SessionDep, next: str = "") -> Response:
    if not _is_private(request):
        return _insecure(request)
    stored = await _stores_a_key(services, session)
    return bare_page(request, "sign_in.html", message=None, next=_own_page(next), stored=stored)


@router.post("/dashboard/sign-in")
async def sign_in(request: Request, services: ServicesDep, session: SessionDep) -> Response:
    if not _is_private(request):
        return _insecure(request)
    if not is_same_origin(request):
        raise Forbidden("this form was sent from another site; sign in at /dashboard/sign-in", "foreign_origin")
    await _count_try(request, services)
    form = await request.form(max_files=0, max_fields=4, max_part_size=4096)
    text, following = str(form.get("key", "")).strip(), _own_page(str(form.get("next", "")))
    try:
        who = await caller_of_key(session, text)
        if not (who.may("train") and who.may("read")):
            scopes = ", ".join(sorted(who.scopes))
            raise Forbidden(
                f"this key has the scopes {scopes}; the dashboard needs train and read, or admin", "missing_scope"
            )
    except (Unauthorized, Forbidden) as error:
        status = 401 if isinstance(error, Unauthorized) else 403
        stored = await _stores_a_key(services, session)
        answer = bare_page(request, "sign_in.html", status=status, message=error.message, next=following, stored=stored)
        answer.background = recording_of_sign_in(request, text, error)
        return answer
    old = session_token(request)
    if old is not None:
        await _end_session(session, old)
    await session.execute(delete(DashboardSession).where(DashboardSession.created_at < func.now() - LIFETIME))
    token = secrets.token_urlsafe(32)
    session.add(DashboardSession(api_key_id=who.api_key_id, token_sha256=hash_token(token)))
    await session.flush()
    await session.run_sync(
        audit.record,
        action="sign_in.accept",
        object_id=who.api_key_id,
        outcome="signed_in",
        owner_id=who.owner_id,
        api_key_id=who.api_key_id,
        request_id=request.state.request_id,
    )
    response = RedirectResponse(link(following), 303)
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
    response = RedirectResponse(link(SIGN_IN), 303)
    secure = request.url.scheme == "https"
    response.delete_cookie(cookie_name(secure), httponly=True, secure=secure, samesite="strict", path="/")
    return response


async def _stores_a_key(services: Services, session: AsyncSession) -> bool:
    """Return whether the data folder holds a key that signs in. In containers and after a rotation it does not."""
    stored = keys.parse_file(services.settings.home)
    return stored is not None and await session.scalar(keys.opened_by(stored)) is not None


async def _end_session(session: AsyncSession, token: str) -> None:
    await session.execute(delete(DashboardSession).where(DashboardSession.token_sha256 == hash_token(token)))


async def _count_try(request: Request, services: Services) -> None:
    address = request.client.host if request.client else ""
    taken = await services.limiter.take("sign_ins", uuid5(NAMESPACE_URL, address), quota=TRIES_PER_MINUTE, cost=1)
    if taken is not None and not taken[0]:
        raise TooManyRequests(
            f"this address tried to sign in more than {TRIES_PER_MINUTE} times in a minute; wait a minute",
            "rate_limited",
            retry_after=taken[1].reset_seconds,
        )


def _own_page(address: str) -> str:
    """Return the address if it is a dashboard page, never another site such as `//evil.example`."""
    own = address == "/dashboard" or address.startswith(("/dashboard/", "/dashboard?"))
    return address if own and "\\" not in address and address.isprintable() else "/dashboard"


def _is_private(request: Request) -> bool:
    """Return whether a key can be sent safely: over TLS, or by a browser on this machine.

    The Host header must be a loopback name or address, so that DNS rebinding does not pass.
    """
    if request.url.scheme == "https":
        return True
    return is_loopback(urlsplit(f"//{request.headers.get('host', '')}").hostname or "")


def _insecure(request: Request) -> Response:
    message = (
        "Signing in here would send your key over the network unencrypted. "
        "Use https, or open the dashboard on the machine itself (http://localhost). A TLS proxy must send "
        "X-Forwarded-Proto: https, and OPAD_TRUSTED_PROXIES must contain its address."
    )
    return bare_page(request, "sign_in.html", status=403, message=message, refused=True)
