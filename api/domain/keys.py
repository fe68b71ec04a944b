"""API keys: `opk_live_<43 base62>_<crc32 in hex>`. The text is shown once; the database stores its SHA-256.

Every request looks its key up, so a change here takes effect everywhere at once.
"""

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy import BindParameter, ColumnElement, Select, and_, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.domain import audit
from api.domain.errors import Conflict
from api.domain.tables import ApiKey, DashboardSession, Owner

ADMIN_OWNER = "admin"
"""The owner whose `admin` keys operate the whole installation. Admin keys of others manage their owner's keys only."""
SCOPES = ("admin", "train", "generate", "read")
KEY_FILE = "admin-key"
"""The file in the data folder in which the launcher stores an admin key."""
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FORM = re.compile(r"(opk_live_[0-9A-Za-z]{43})_([0-9a-f]{8})")


@dataclass(frozen=True)
class NewKey:
    text: str = field(repr=False)
    sha256: bytes


def mint() -> NewKey:
    """Generate a key. 43 base62 letters hold 256 random bits; the prefix lets secret scanners find a leaked key."""
    body = "opk_live_" + "".join(secrets.choice(_ALPHABET) for _ in range(43))
    text = f"{body}_{_checksum(body)}"
    return NewKey(text, hash_key(text))


def hash_key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def parse(text: str) -> bytes | None:
    """Return the hash to look up, or None if the text is not a key: the checksum finds a mistyped one."""
    match = _FORM.fullmatch(text)
    if match is None or match[2] != _checksum(match[1]):
        return None
    return hash_key(text)


def parse_file(home: Path) -> bytes | None:
    """Return the hash of the key that the data folder stores, or None if it stores none."""
    try:
        return parse((home / KEY_FILE).read_text().strip())
    except (OSError, UnicodeDecodeError):
        return None


def is_live() -> ColumnElement[bool]:
    return ApiKey.revoked_at.is_(None) & or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())


def has_secret(sha256: bytes | BindParameter[bytes]) -> ColumnElement[bool]:
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
    """Create a key for the owner with this name, and the owner if needed. The caller commits."""
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
    """Give the key a new secret and end its dashboard sessions.

    The old secret is valid for `grace` longer; the one before it no longer is. The session must hold a lock on `key`.
    Raises Conflict for a key that is revoked or expired.
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
    """Revoke the key for good. A second call changes nothing. The session must hold a lock on `key`."""
    if key.revoked_at is None:
        key.revoked_at = session.scalar(select(func.now()))
        session.flush()


def ensure_first_admin_key(session: Session) -> str | None:
    """Create the owner "admin" and a key with every scope. Return its text, or None if the owner exists.

    Several processes may call it at once: the unique owner name decides which one creates the key. The caller commits.
    """
    made = session.scalar(
        insert(Owner).values(name=ADMIN_OWNER).on_conflict_do_nothing(index_elements=["name"]).returning(Owner.id)
    )
    if made is None:
        return None
    key, secret = create(session, owner_name=ADMIN_OWNER, label="first admin key", scopes=["admin"])
    audit.record(session, action="key.create", object_id=key.id, outcome="created", owner_id=key.owner_id)
    return secret.text


def opened_by(sha256: bytes) -> Select[UUID]:
    """Select the id of the live key with this secret."""
    return select(ApiKey.id).where(has_secret(sha256), is_live())


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
