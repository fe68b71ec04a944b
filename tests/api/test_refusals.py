"""Refused requests that are recorded in the audit log."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import redis
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.domain import audit, keys
from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.tables import ApiKey, AuditEvent
from api.refusals import ROWS_PER_MINUTE
from tests.api.reference_images import reference
from tests.api.test_auth import bearer


@pytest.fixture(autouse=True)
def _nothing_noted_before(settings: Settings) -> Iterator[None]:
    """Reset the counter of unknown callers, which all tests share through the broker."""
    broker = redis.Redis(unix_socket_path=settings.redis_url.removeprefix("redis+socket://").partition("?")[0])

    def forget() -> None:
        for key in broker.scan_iter("*refusals*"):
            broker.delete(key)

    forget()
    yield
    forget()


def rows(sessions: Sessions, action: str) -> list[AuditEvent]:
    with sessions() as db:
        return list(db.scalars(select(AuditEvent).where(AuditEvent.action == action).order_by(AuditEvent.number)))


def key_id(sessions: Sessions, text: str) -> UUID:
    with sessions() as db:
        return db.scalars(select(ApiKey.id).where(ApiKey.secret_sha256 == keys.hash_key(text))).one()


def test_a_request_for_anothers_object_is_recorded_with_its_key(
    client: TestClient, concept: dict[str, Any], new_key: Callable[..., str], sessions: Sessions
) -> None:
    bobs = new_key("bob")
    job_id = concept["jobs"][0]["id"]
    client.get(f"/v1/concepts/{concept['id']}", headers=bearer(bobs))
    client.post(f"/v1/jobs/{job_id}/cancel", headers=bearer(bobs))
    refused = client.post(
        "/v1/generate", json={"concept_id": concept["id"], "prompt": "a <concept>"}, headers=bearer(bobs)
    )

    noted = rows(sessions, "access.refuse")
    assert [str(row.object_id) for row in noted] == [concept["id"], job_id, concept["id"]]
    assert {row.api_key_id for row in noted} == {key_id(sessions, bobs)}
    assert {row.outcome for row in noted} == {"not_theirs"}
    assert noted[-1].request_id == refused.headers["x-request-id"]
    mine = client.get("/v1/audit", params={"action": "access.refuse"}).json()["items"]
    assert len(mine) == 3, "alice sees that hers was asked for"


def test_a_mistyped_id_is_not_recorded(client: TestClient, concept: dict[str, Any], sessions: Sessions) -> None:
    client.get("/v1/concepts/0198c0de-7e57-7000-8000-000000000001")
    client.get(f"/v1/concepts/{concept['id']}/references/9")

    assert rows(sessions, "access.refuse") == []


def test_a_missing_scope_is_recorded(client: TestClient, new_key: Callable[..., str], sessions: Sessions) -> None:
    narrow = new_key(scopes=("generate",))
    files = [("images", ("a.jpg", reference(1)))]
    assert client.post("/v1/concepts", files=files, headers=bearer(narrow)).status_code == 403

    (row,) = rows(sessions, "access.refuse")
    assert (row.object_id, row.outcome) == (key_id(sessions, narrow), "missing_scope")


def test_the_use_of_a_revoked_key_is_recorded_and_of_an_unknown_one_is_not(
    anonymous: TestClient, new_key: Callable[..., str], sessions: Sessions
) -> None:
    revoked = new_key(revoked_at=datetime.now(UTC) - timedelta(seconds=1))
    for text in (revoked, keys.mint().text, "nonsense"):
        assert anonymous.get("/v1/jobs", headers=bearer(text)).status_code == 401

    (row,) = rows(sessions, "key.refuse")
    assert row.object_id == key_id(sessions, revoked)


def test_each_failed_sign_in_is_recorded(
    anonymous: TestClient, new_key: Callable[..., str], sessions: Sessions
) -> None:
    narrow = new_key(scopes=("generate",))
    for text in ("hello", keys.mint().text, narrow):
        assert anonymous.post("/dashboard/sign-in", data={"key": text}).status_code in (401, 403)

    noted = rows(sessions, "sign_in.refuse")
    assert [row.outcome for row in noted] == ["malformed_key", "unknown_key", "missing_scope"]
    assert [row.object_id for row in noted] == [None, None, key_id(sessions, narrow)]
    with sessions() as db:
        assert audit.verify(db).intact, "rows of nobody are part of the chain"


def test_a_flood_of_refusals_is_no_flood_of_rows(
    anonymous: TestClient, new_key: Callable[..., str], sessions: Sessions
) -> None:
    revoked = bearer(new_key(revoked_at=datetime.now(UTC) - timedelta(seconds=1)))
    for _ in range(ROWS_PER_MINUTE + 5):
        anonymous.get("/v1/jobs", headers=revoked)

    assert len(rows(sessions, "key.refuse")) <= ROWS_PER_MINUTE
