from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from api.domain import audit, keys
from api.domain.database import Sessions
from api.domain.tables import JobState
from tests.api.reference_images import reference
from tests.api.test_auth import bearer


def actions(client: TestClient, **query: Any) -> list[tuple[str, str, str]]:
    items = client.get("/v1/audit", params=query).json()["items"]
    return [(item["action"], item["object_id"], item["outcome"]) for item in reversed(items)]


def rewrite(sessions: Sessions, statement: str) -> None:
    """Change rows as a database superuser would."""
    with sessions.begin() as db:
        db.execute(text("ALTER TABLE audit_event DISABLE TRIGGER append_only"))
        db.execute(text(statement))
        db.execute(text("ALTER TABLE audit_event ENABLE TRIGGER append_only"))


def verdict(sessions: Sessions, **options: Any) -> audit.Verification:
    with sessions() as db:
        return audit.verify(db, **options)


@pytest.fixture
def three_rows(client: TestClient) -> None:
    for name in ("a", "b", "c"):
        assert client.post("/v1/keys", json={"name": name, "scopes": ["read"]}).status_code == 201


def test_an_action_is_recorded_with_its_request(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None]
) -> None:
    job_id = concept["jobs"][0]["id"]
    cancelled = client.post(f"/v1/jobs/{job_id}/cancel")
    client.post(f"/v1/jobs/{job_id}/retry")
    set_job(job_id, state=JobState.running)
    client.post(f"/v1/jobs/{job_id}/cancel")
    set_job(job_id, state=JobState.cancelled)
    again = client.post(f"/v1/concepts/{concept['id']}/versions", json={}).json()["job"]["id"]
    client.post(f"/v1/jobs/{again}/cancel")
    client.delete(f"/v1/concepts/{concept['id']}")
    key_id = client.post("/v1/keys", json={"name": "x", "scopes": ["read"]}).json()["id"]
    client.post(f"/v1/keys/{key_id}/rotate", json={})
    client.delete(f"/v1/keys/{key_id}")

    assert actions(client) == [
        ("concept.create", concept["id"], "accepted"),
        ("job.cancel", job_id, "cancelled"),
        ("job.retry", job_id, "queued"),
        ("job.cancel", job_id, "cancel_requested"),
        ("concept.train_again", concept["id"], "accepted"),
        ("job.cancel", again, "cancelled"),
        ("concept.erase", concept["id"], "erased"),
        ("key.create", key_id, "created"),
        ("key.rotate", key_id, "rotated"),
        ("key.revoke", key_id, "revoked"),
    ]
    (first, *_) = client.get("/v1/audit", params={"object_id": job_id}).json()["items"][::-1]
    assert first["request_id"] == cancelled.headers["x-request-id"]
    assert len(actions(client, action="job.cancel")) == 3


def test_what_was_refused_or_done_before_adds_nothing(client: TestClient, upload: Callable[..., Any]) -> None:
    key = {"Idempotency-Key": "once"}
    for _ in range(2):
        assert upload(reference(1), reference(2), reference(3), headers=key).status_code == 202
    assert upload(reference(1), reference(2), reference(3)).status_code == 409
    assert [action for action, _, _ in actions(client)] == ["concept.create"]


def test_an_owner_sees_what_was_done_to_theirs_and_the_operator_all(
    client: TestClient, concept: dict[str, Any], new_key: Callable[..., str]
) -> None:
    bob, operator = bearer(new_key("bob")), bearer(new_key(keys.ADMIN_OWNER))
    made = client.post("/v1/keys", json={"name": "x", "owner": "bob", "scopes": ["read"]}, headers=operator).json()

    assert client.get("/v1/audit", headers=bob).json()["items"][0]["object_id"] == made["id"]
    assert len(client.get("/v1/audit", headers=bob).json()["items"]) == 1
    assert len(client.get("/v1/audit", headers=operator).json()["items"]) == 2
    assert client.get("/v1/audit", headers=bearer(new_key(scopes=("read",)))).status_code == 403


def test_the_log_is_paginated(client: TestClient, three_rows: None) -> None:
    first = client.get("/v1/audit", params={"limit": 2}).json()
    rest = client.get("/v1/audit", params={"limit": 2, "cursor": first["next"]}).json()
    assert [item["number"] for item in first["items"] + rest["items"]] == [3, 2, 1]
    assert rest["next"] is None


def test_rows_of_many_at_once_make_one_chain(client: TestClient, sessions: Sessions) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = pool.map(lambda n: client.post("/v1/keys", json={"name": f"k{n}", "scopes": ["read"]}), range(12))
    assert {answer.status_code for answer in answers} == {201}
    assert verdict(sessions).message.startswith("12 rows, unbroken")


def test_the_database_refuses_to_change_a_row(three_rows: None, sessions: Sessions) -> None:
    for statement in ("UPDATE audit_event SET outcome = 'x'", "DELETE FROM audit_event", "TRUNCATE audit_event"):
        with pytest.raises(DatabaseError, match="takes new rows only"), sessions.begin() as db:
            db.execute(text(statement))


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "UPDATE audit_event SET outcome = 'x' WHERE number = 2",
            "row 2 of the audit log (key.create) has been changed",
        ),
        ("UPDATE audit_event SET at = at - interval '1 second' WHERE number = 1", "row 1 of the audit log"),
        ("UPDATE audit_event SET api_key_id = NULL WHERE number = 3", "row 3 of the audit log"),
        ("UPDATE audit_event SET hash = sha256('x') WHERE number = 2", "row 2 of the audit log"),
        ("DELETE FROM audit_event WHERE number = 2", "row 2 of the audit log is missing; the next one is 3"),
    ],
)
def test_the_first_broken_row_is_named(three_rows: None, sessions: Sessions, statement: str, message: str) -> None:
    assert verdict(sessions).intact
    rewrite(sessions, statement)
    found = verdict(sessions)
    assert not found.intact
    assert found.message.startswith(message)


def test_a_cut_end_is_found_by_the_mark_of_an_earlier_verify(three_rows: None, sessions: Sessions) -> None:
    mark = audit.parse_mark(verdict(sessions).message.rpartition(" ")[2])
    assert verdict(sessions, contains=mark).intact
    rewrite(sessions, "DELETE FROM audit_event WHERE number = 3")
    assert verdict(sessions).intact
    assert "which ends at 2" in verdict(sessions, contains=mark).message
