"""Authenticate a request by its Bearer key or by the dashboard's session cookie, and check its scopes."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy import ColumnElement, Select, bindparam, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from api.domain import keys
from api.domain.errors import Forbidden, Unauthorized
from api.domain.tables import ApiKey, DashboardSession, Owner
from api.origin import is_same_origin
from api.services import SessionDep

IDLE = timedelta(minutes=30)
LIFETIME = timedelta(hours=8)
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}

bearer = HTTPBearer(
    auto_error=False,
    scheme_name="API key",
    description="`Authorization: Bearer opk_live_…`; `opad key create` makes one.",
)


@dataclass(frozen=True)
class Caller:
    owner_id: UUID
    owner_name: str
    api_key_id: UUID
    scopes: frozenset[str]
    limits: Mapping[str, int]
    """Limits of this key. For a limit that is not named here the installation's setting counts."""

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    @property
    def operates(self) -> bool:
        """Return whether the caller may see the keys and the audit log of every owner; never their concepts."""
        return "admin" in self.scopes and self.owner_name == keys.ADMIN_OWNER


def cookie_name(secure: bool) -> str:
    """Return the cookie's name. A `__Host-` cookie needs TLS; the sign-in page allows plain HTTP on loopback only."""
    return "__Host-opad" if secure else "opad"


def session_token(request: Request) -> str | None:
    return request.cookies.get(cookie_name(request.url.scheme == "https"))


def csrf_token(token: str) -> str:
    """Derive the CSRF token. Only the server can read the HttpOnly cookie, so no column has to store it."""
    return hashlib.sha256(b"opad csrf " + token.encode()).hexdigest()


def hash_token(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def caller_of_key(session: SessionDep, text: str) -> Caller:
    digest = keys.parse(text)
    if digest is None:
        raise Unauthorized(
            "this is not an OPAD key; a key begins with opk_live_ and ends with a checksum: copy the whole key",
            "malformed_key",
        )
    found = (await session.execute(_key_statement(), {"digest": digest})).one_or_none()
    if found is None:
        raise Unauthorized(
            "this key is unknown, expired or revoked; make a new one with `opad key create`", "unknown_key"
        )
    key, owner_name, needs_mark = found
    if needs_mark:
        await _mark_used(session, key.id)
    return _as_caller(key, owner_name)


@cache  # SQLAlchemy takes longer to build it than PostgreSQL to run it
def _key_statement() -> Select[ApiKey, str, bool]:
    return (
        select(ApiKey, Owner.name, _not_marked_recently())
        .join(Owner, Owner.id == ApiKey.owner_id)
        .where(keys.has_secret(bindparam("digest")), keys.is_live())
    )


def _as_caller(key: ApiKey, owner_name: str) -> Caller:
    return Caller(key.owner_id, owner_name, key.id, frozenset(key.scopes), key.limits)


def _not_marked_recently() -> ColumnElement[bool]:
    return or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - timedelta(minutes=1))


async def _mark_used(session: AsyncSession, key_id: UUID) -> None:
    """Commit the use at once: a request that fails counts too, and a long one holds no lock on its key."""
    await session.execute(
        update(ApiKey).where(ApiKey.id == key_id, _not_marked_recently()).values(last_used_at=func.now())
    )
    await session.commit()


async def caller_of_session(session: SessionDep, token: str) -> Caller | None:
    """Return the session's caller, or None if it ended, was idle for 30 minutes, is 8 hours old or lost its key."""
    fresh = (DashboardSession.seen_at > func.now() - IDLE) & (DashboardSession.created_at > func.now() - LIFETIME)
    found = (
        await session.execute(
            select(ApiKey, Owner.name, DashboardSession.id, _not_marked_recently())
            .join(DashboardSession, DashboardSession.api_key_id == ApiKey.id)
            .join(Owner, Owner.id == ApiKey.owner_id)
            .where(DashboardSession.token_sha256 == hash_token(token), fresh, keys.is_live())
        )
    ).one_or_none()
    if found is None:
        return None
    key, owner_name, session_id, needs_mark = found
    if needs_mark:
        await _mark_used(session, key.id)
    await session.execute(
        update(DashboardSession)  # at most one write a minute, however often the page asks
        .where(DashboardSession.id == session_id, DashboardSession.seen_at < func.now() - timedelta(minutes=1))
        .values(seen_at=func.now())
    )
    return _as_caller(key, owner_name)


async def caller(request: Request, session: SessionDep) -> Caller:
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, text = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized(f"the Authorization scheme is {scheme!r}; send `Authorization: Bearer KEY`", "no_key")
        return _remember(request, await caller_of_key(session, text.strip()))
    token = session_token(request)
    found = await caller_of_session(session, token) if token else None
    if token is None or found is None:
        raise Unauthorized("no API key was sent; send `Authorization: Bearer KEY`", "no_key")
    if request.method not in _SAFE_METHODS:
        sent = request.headers.get("x-csrf-token", "")
        if not is_same_origin(request) or not hmac.compare_digest(sent.encode(), csrf_token(token).encode()):
            raise Forbidden("this request did not come from the dashboard; reload the page", "bad_csrf_token")
    return _remember(request, found)


def _remember(request: Request, who: Caller) -> Caller:
    """Keep the caller on the request: `api.refusals` records who was refused, after the route has ended."""
    request.state.caller = who
    return who


def require(scope: str) -> Callable[[Caller], Awaitable[Caller]]:
    async def check(who: Annotated[Caller, Depends(caller)]) -> Caller:
        if not who.may(scope):
            raise Forbidden(
                f"this route needs the scope {scope!r}; this key has {', '.join(sorted(who.scopes)) or 'none'}: "
                "use another key",
                "missing_scope",
                needed=scope,
            )
        return who

    return check


Reader = Annotated[Caller, Depends(require("read"))]
Trainer = Annotated[Caller, Depends(require("train"))]
Generator = Annotated[Caller, Depends(require("generate"))]
Admin = Annotated[Caller, Depends(require("admin"))]
