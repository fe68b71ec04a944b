"""API keys: `opk_live_<43 base62>_<crc32 in hex>`. The text exists once, when made; the database has its SHA-256.

A key is looked up anew for each request, so what happens to it here counts everywhere at once.
"""

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.domain import audit
from api.domain.errors import Conflict
from api.domain.tables import ApiKey, DashboardSession, Owner

ADMIN_OWNER = "admin"
"""Whose keys with the scope `admin` run the whole installation; another owner's manage that owner's keys alone."""
SCOPES = ("admin", "train", "generate", "read")
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FORM = re.compile(r"(opk_live_[0-9A-Za-z]{43})_([0-9a-f]{8})")


@dataclass(frozen=True)
class NewKey:
    text: str = field(repr=False)
    sha256: bytes


def mint() -> NewKey:
    """43 base62 letters carry 256 random bits; the prefix lets secret scanners find a leaked key."""
    body = "opk_live_" + "".join(secrets.choice(_ALPHABET) for _ in range(43))
    text = f"{body}_{_checksum(body)}"
    return NewKey(text, hash_key(text))


def hash_key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def parse(text: str) -> bytes | None:
    """The hash to look up; None when the text is no key of ours (a typing error is seen without the database)."""
    match = _FORM.fullmatch(text)
    if match is None or match[2] != _checksum(match[1]):
        return None
    return hash_key(text)


def is_live() -> ColumnElement[bool]:
    return ApiKey.revoked_at.is_(None) & or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())


def has_secret(sha256: bytes) -> ColumnElement[bool]:
    return or_(
        ApiKey.secret_sha256 == sha256,
        and_(ApiKey.previous_sha256 == sha256, ApiKey.previous_until > func.now()),
    )


def create(
    session: Session,
    *,
    owner_name: str,
    label: str,
    scopes: Sequence[str],
    expires_at: datetime | None = None,
    limits: Mapping[str, int] | None = None,
) -> tuple[ApiKey, NewKey]:
    """A key of the owner with this name, who is made if new. The caller commits."""
    session.execute(insert(Owner).values(name=owner_name).on_conflict_do_nothing(index_elements=["name"]))
    owner_id = session.scalars(select(Owner.id).where(Owner.name == owner_name)).one()
    secret = mint()
    key = ApiKey(
        owner_id=owner_id,
        label=label,
        secret_sha256=secret.sha256,
        scopes=list(scopes),
        expires_at=expires_at,
        limits=dict(limits or {}),
    )
    session.add(key)
    session.flush()
    return key, secret


def rotate(session: Session, key: ApiKey, *, grace: timedelta) -> NewKey:
    """A new secret; the old one counts for as long as `grace`, the one before it no longer. Ends dashboard sessions.

    `key` must be locked by the session. Raises Conflict for a key that is revoked or expired.
    """
    if not session.scalar(select(is_live()).where(ApiKey.id == key.id)):
        raise Conflict(f"the key {key.id} is revoked or expired; create a new one", "key_over")
    secret = mint()
    key.previous_sha256 = key.secret_sha256 if grace else None
    key.previous_until = session.scalar(select(func.now() + grace)) if grace else None
    key.secret_sha256 = secret.sha256
    session.execute(delete(DashboardSession).where(DashboardSession.api_key_id == key.id))
    session.flush()
    return secret


def revoke(session: Session, key: ApiKey) -> None:
    """For good; a second time changes nothing. `key` must be locked by the session."""
    if key.revoked_at is None:
        key.revoked_at = session.scalar(select(func.now()))
        session.flush()


def ensure_first_admin_key(session: Session) -> str | None:
    """Make the owner "admin" and a key with every right, once for a database; its text, or None when they exist.

    Safe from several processes: the unique owner name decides who makes the key. The caller commits.
    """
    made = session.scalar(
        insert(Owner).values(name=ADMIN_OWNER).on_conflict_do_nothing(index_elements=["name"]).returning(Owner.id)
    )
    if made is None:
        return None
    key, secret = create(session, owner_name=ADMIN_OWNER, label="first admin key", scopes=["admin"])
    audit.record(session, action="key.create", object_id=key.id, outcome="created", owner_id=key.owner_id)
    return secret.text


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
