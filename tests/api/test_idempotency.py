from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import text

from api.domain.database import Sessions
from api.domain.tables import JobState
from tests.api.reference_images import reference

KEY = {"Idempotency-Key": "order-1"}


def test_the_same_request_twice_makes_one_concept(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]]
) -> None:
    first = upload(reference(1), reference(2), reference(3), headers=KEY)
    again = upload(reference(1), reference(2), reference(3), headers=KEY)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert stored()["concept"] == stored()["job"] == 1


def test_a_key_with_another_request_is_refused(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]]
) -> None:
    upload(reference(1), reference(2), reference(3), headers=KEY)
    before = stored()

    other_files = upload(reference(1), reference(2), reference(4), headers=KEY)
    other_field = upload(reference(1), reference(2), reference(3), headers=KEY, seed="9")

    for answer in (other_files, other_field):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert stored() == before


def test_each_owner_has_keys_of_their_own(upload: Callable[..., Any], new_key: Callable[..., str]) -> None:
    bob = {"Authorization": f"Bearer {new_key('bob')}"}
    first = upload(reference(1), reference(2), reference(3), headers=KEY)
    other = upload(reference(1), reference(2), reference(3), headers=KEY | bob)
    assert other.status_code == 202
    assert other.json()["concept"]["id"] != first.json()["concept"]["id"]


def test_a_refused_request_leaves_its_key_free(upload: Callable[..., Any]) -> None:
    assert upload(reference(1), headers=KEY).status_code == 422
    assert upload(reference(1), reference(2), reference(3), headers=KEY).status_code == 202


def test_a_key_is_free_again_after_a_day(upload: Callable[..., Any], sessions: Sessions) -> None:
    upload(reference(1), reference(2), reference(3), headers=KEY)
    with sessions.begin() as db:
        db.execute(text("UPDATE idempotency_key SET created_at = now() - interval '25 hours'"))
    other = upload(reference(1), reference(2), reference(4), headers=KEY, name="another")
    assert other.status_code == 202


def test_of_equal_requests_at_once_one_wins_and_all_get_its_answer(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: upload(reference(1), reference(2), reference(3), headers=KEY), range(4)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["concept"]["id"] for answer in answers}) == 1
    assert stored()["concept"] == stored()["job"] == 1


def test_an_overlong_key_is_refused_by_name(upload: Callable[..., Any]) -> None:
    answer = upload(reference(1), reference(2), reference(3), headers={"Idempotency-Key": "k" * 256})
    assert answer.status_code == 422
    assert "Idempotency-Key" in answer.json()["detail"]


def test_a_new_version_is_trained_on_the_same_photos(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None]
) -> None:
    set_job(concept["jobs"][0]["id"], state=JobState.cancelled)

    answer = client.post(f"/v1/concepts/{concept['id']}/versions", json={"seed": 7, "overrides": {"iterations": 9}})

    assert answer.status_code == 202
    job = answer.json()["job"]
    assert (job["version"], job["seed"], job["state"]) == (2, 7, "queued")
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert answer.json()["concept"]["references"] == concept["references"]


def test_a_version_is_made_once_per_key(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None]
) -> None:
    set_job(concept["jobs"][0]["id"], state=JobState.failed)
    path = f"/v1/concepts/{concept['id']}/versions"
    first, again = client.post(path, json={}, headers=KEY), client.post(path, json={}, headers=KEY)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()


def test_a_concept_in_training_gets_no_new_version(client: TestClient, concept: dict[str, Any]) -> None:
    answer = client.post(f"/v1/concepts/{concept['id']}/versions", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "concept_in_training")
    assert "still queued" in answer.json()["detail"]


def test_a_foreign_concept_gets_no_version(
    client: TestClient, concept: dict[str, Any], new_key: Callable[..., str]
) -> None:
    bob = {"Authorization": f"Bearer {new_key('bob')}"}
    assert client.post(f"/v1/concepts/{concept['id']}/versions", json={}, headers=bob).status_code == 404
