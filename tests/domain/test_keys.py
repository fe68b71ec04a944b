import hashlib
import re
from datetime import timedelta

from sqlalchemy import func, select, update

from api.domain import keys
from api.domain.database import Sessions
from api.domain.tables import ApiKey


def test_a_minted_key_is_parsed_to_its_hash() -> None:
    key = keys.mint()

    assert re.fullmatch(r"opk_live_[0-9A-Za-z]{43}_[0-9a-f]{8}", key.text)
    assert keys.parse(key.text) == key.sha256 == hashlib.sha256(key.text.encode()).digest()
    assert key.text not in repr(key)


def test_a_typing_error_is_no_key() -> None:
    text = keys.mint().text
    other = "A" if text[20] != "A" else "B"

    assert keys.parse(text[:20] + other + text[21:]) is None
    assert keys.parse(text + "\n") is None
    assert keys.parse("") is None


def test_a_wrong_checksum_is_no_key() -> None:
    body, _, checksum = keys.mint().text.rpartition("_")

    for wrong in {"00000000", "ffffffff"} - {checksum}:
        assert keys.parse(f"{body}_{wrong}") is None


def test_the_grace_of_an_old_secret_ends_at_its_moment(sessions: Sessions) -> None:
    with sessions.begin() as db:
        key, old = keys.create(db, owner_name="alice", label="frame", scopes=["read"])
        keys.rotate(db, key, grace=timedelta(seconds=60))
        live = select(ApiKey.id).where(keys.has_secret(old.sha256))
        assert db.scalar(live) == key.id
        db.execute(update(ApiKey).values(previous_until=func.now()))  # the time of all of this transaction
        assert db.scalar(live) is None


def test_the_first_admin_key_is_created_once(sessions: Sessions) -> None:
    with sessions.begin() as db:
        text = keys.ensure_first_admin_key(db)
    with sessions.begin() as db:
        again = keys.ensure_first_admin_key(db)
        stored = db.scalars(select(ApiKey)).all()

    assert text is not None
    assert again is None
    assert [(key.secret_sha256, key.scopes) for key in stored] == [(keys.parse(text), ["admin"])]
