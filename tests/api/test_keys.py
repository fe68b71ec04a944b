from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from api.app import create_app
from api.domain import keys
from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.tables import ApiKey
from tests.api.test_auth import bearer


@pytest.fixture
def operator(anonymous: TestClient, new_key: Callable[..., str]) -> TestClient:
    anonymous.headers["Authorization"] = f"Bearer {new_key(keys.ADMIN_OWNER)}"
    return anonymous


@pytest.fixture
def make(operator: TestClient) -> Callable[..., dict[str, Any]]:
    """Create a key by `POST /v1/keys` as the operator."""

    def post(**fields: Any) -> dict[str, Any]:
        answer = operator.post("/v1/keys", json={"name": "frame", "owner": "alice", "scopes": ["read"], **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()

    return post


def status(client: TestClient, secret: str) -> int:
    return client.get("/v1/jobs", headers=bearer(secret)).status_code


def test_a_new_key_works_and_its_secret_is_shown_once(
    operator: TestClient, make: Callable[..., dict[str, Any]]
) -> None:
    made = make(scopes=["read", "generate", "read"])

    assert made["scopes"] == ["generate", "read"]
    assert status(operator, made["secret"]) == 200
    read = operator.get(f"/v1/keys/{made['id']}").json()
    listed = operator.get("/v1/keys", params={"owner": "alice"}).json()["items"]
    assert [item["id"] for item in listed] == [made["id"]]
    assert (read["state"], read["owner"], read["name"]) == ("active", "alice", "frame")
    assert made["secret"] not in str(listed) + str(read)
    assert "secret" not in read


def test_last_use_is_marked_once_a_minute_and_survives_a_refused_request(
    operator: TestClient, make: Callable[..., dict[str, Any]], sessions: Sessions
) -> None:
    made = make()
    path = f"/v1/keys/{made['id']}"
    assert operator.get(path).json()["last_used_at"] is None

    assert operator.get(f"/v1/jobs/{uuid4()}", headers=bearer(made["secret"])).status_code == 404
    first = operator.get(path).json()["last_used_at"]
    assert first is not None
    status(operator, made["secret"])
    assert operator.get(path).json()["last_used_at"] == first
    with sessions.begin() as db:
        db.execute(text("UPDATE api_key SET last_used_at = last_used_at - interval '61 seconds'"))
    status(operator, made["secret"])
    assert operator.get(path).json()["last_used_at"] >= first


def test_rotation_ends_the_old_secret_at_once_or_after_its_grace(
    operator: TestClient, make: Callable[..., dict[str, Any]], sessions: Sessions
) -> None:
    made = make()
    path = f"/v1/keys/{made['id']}/rotate"

    second = operator.post(path, json={}).json()
    assert (status(operator, made["secret"]), status(operator, second["secret"])) == (401, 200)

    third = operator.post(path, json={"grace_seconds": 600}).json()
    assert third["id"] == made["id"]
    assert third["previous_valid_until"] is not None
    assert (status(operator, second["secret"]), status(operator, third["secret"])) == (200, 200)
    with sessions.begin() as db:
        db.get_one(ApiKey, UUID(made["id"])).previous_until = datetime.now(UTC) - timedelta(seconds=1)
    assert (status(operator, second["secret"]), status(operator, third["secret"])) == (401, 200)


def test_rotation_signs_browsers_out(operator: TestClient, make: Callable[..., dict[str, Any]]) -> None:
    made = make(scopes=["train", "read"])
    operator.post("/dashboard/sign-in", data={"key": made["secret"]})
    assert operator.get("/dashboard").status_code == 200

    operator.post(f"/v1/keys/{made['id']}/rotate", json={"grace_seconds": 600})

    assert operator.get("/dashboard").status_code == 303


def test_revocation_is_seen_by_every_process_at_once(
    operator: TestClient, make: Callable[..., dict[str, Any]], api_settings: Settings
) -> None:
    made = make()
    with TestClient(create_app(api_settings), base_url="http://localhost") as elsewhere:
        assert status(elsewhere, made["secret"]) == 200
        revoked = operator.delete(f"/v1/keys/{made['id']}")
        assert status(elsewhere, made["secret"]) == 401

    assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
    again = operator.delete(f"/v1/keys/{made['id']}").json()
    assert again["revoked_at"] == revoked.json()["revoked_at"]
    assert operator.post(f"/v1/keys/{made['id']}/rotate", json={}).json()["code"] == "key_over"


def test_a_key_ends_at_its_time(operator: TestClient, make: Callable[..., dict[str, Any]], sessions: Sessions) -> None:
    made = make(expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    assert status(operator, made["secret"]) == 200
    with sessions.begin() as db:
        db.get_one(ApiKey, UUID(made["id"])).expires_at = datetime.now(UTC) - timedelta(seconds=1)
    assert status(operator, made["secret"]) == 401
    assert operator.get(f"/v1/keys/{made['id']}").json()["state"] == "expired"


def test_what_cannot_be_a_key_is_refused_in_words(operator: TestClient, subtests: pytest.Subtests) -> None:
    good = {"name": "frame", "scopes": ["read"]}
    cases = {
        "no scope": ({**good, "scopes": []}, "scopes"),
        "unknown scope": ({**good, "scopes": ["root"]}, "scopes[0]"),
        "past end": ({**good, "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        "end without a zone": ({**good, "expires_at": "2090-01-01T00:00:00"}, "expires_at"),
        "own secret": ({**good, "secret": "opk_live_mine"}, "secret"),
    }
    for name, (body, field) in cases.items():
        with subtests.test(name):
            answer = operator.post("/v1/keys", json=body)
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["field"] == field


def test_an_owners_admin_manages_the_owners_keys_alone(
    operator: TestClient, make: Callable[..., dict[str, Any]], new_key: Callable[..., str]
) -> None:
    alices = make()
    bob = bearer(new_key("bob"))

    assert operator.get(f"/v1/keys/{alices['id']}", headers=bob).status_code == 404
    assert operator.post(f"/v1/keys/{alices['id']}/rotate", json={}, headers=bob).status_code == 404
    assert operator.delete(f"/v1/keys/{alices['id']}", headers=bob).status_code == 404
    foreign = operator.post("/v1/keys", json={"name": "x", "owner": "alice", "scopes": ["read"]}, headers=bob)
    assert (foreign.status_code, foreign.json()["code"]) == (403, "foreign_owner")
    own = operator.post("/v1/keys", json={"name": "x", "scopes": ["read"]}, headers=bob).json()
    assert own["owner"] == "bob"
    assert {key["owner"] for key in operator.get("/v1/keys", headers=bob).json()["items"]} == {"bob"}
    assert {key["owner"] for key in operator.get("/v1/keys").json()["items"]} == {"admin", "alice", "bob"}


def test_keys_need_the_scope_admin(client: TestClient, new_key: Callable[..., str]) -> None:
    all_but_admin = bearer(new_key(scopes=("train", "generate", "read")))
    assert client.get("/v1/keys", headers=all_but_admin).json()["code"] == "missing_scope"


def test_no_key_revokes_itself(operator: TestClient) -> None:
    (own,) = operator.get("/v1/keys").json()["items"]
    answer = operator.delete(f"/v1/keys/{own['id']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "key_in_use")


def test_keys_are_paginated(operator: TestClient, make: Callable[..., dict[str, Any]]) -> None:
    made = [make()["id"] for _ in range(3)]
    first = operator.get("/v1/keys", params={"owner": "alice", "limit": 2}).json()
    rest = operator.get("/v1/keys", params={"owner": "alice", "limit": 2, "cursor": first["next"]}).json()
    assert [key["id"] for key in first["items"] + rest["items"]] == made[::-1]
    assert rest["next"] is None
