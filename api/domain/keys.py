"""API keys: `opk_live_<43 base62>_<crc32 in hex>`. The text exists once, when made; the database has its SHA-256."""

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.domain.models import ApiKey, Owner

ADMIN_OWNER = "admin"
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


def ensure_first_admin_key(session: Session) -> str | None:
    """Make the owner "admin" and a key with every right, once for a database; its text, or None when they exist.

    Safe from several processes: the unique owner name decides who makes the key. The caller commits.
    """
    made = session.scalar(
        insert(Owner).values(name=ADMIN_OWNER).on_conflict_do_nothing(index_elements=["name"]).returning(Owner.id)
    )
    if made is None:
        return None
    key = mint()
    session.add(ApiKey(owner_id=made, label="first admin key", secret_sha256=key.sha256, scopes=["admin"]))
    session.flush()
    return key.text


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
