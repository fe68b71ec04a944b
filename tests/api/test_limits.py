from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from structlog.testing import capture_logs

from api.app import create_app
from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.tables import Attempt, Job, JobState
from tests.api.reference_images import reference
from tests.api.test_auth import bearer


def limited(new_key: Callable[..., str], owner: str = "alice", **limits: int) -> dict[str, str]:
    return bearer(new_key(owner, limits=limits))


@pytest.fixture
def trained(sessions: Sessions) -> Callable[..., None]:
    """Make a job's only attempt last for so many minutes until now."""

    def put(job_id: str, *, minutes: float) -> None:
        now = datetime.now(UTC)
        with sessions.begin() as db:
            db.add(
                Attempt(
                    job_id=UUID(job_id), fence=1, worker="w", started_at=now - timedelta(minutes=minutes), ended_at=now
                )
            )
            db.get_one(Job, UUID(job_id)).state = JobState.failed

    return put


@pytest.fixture
def without_counters(api_settings: Settings, base: None) -> Iterator[TestClient]:
    dead = api_settings.model_copy(update={"redis_url": "redis://127.0.0.1:9/0"})
    with TestClient(create_app(dead), base_url="http://localhost") as client:
        yield client


def test_each_answer_has_the_rest_of_the_limits(client: TestClient, new_key: Callable[..., str]) -> None:
    three = limited(new_key, requests_per_minute=3)

    answers = [client.get("/v1/jobs", headers=three) for _ in range(3)]

    assert [answer.headers["ratelimit-policy"] for answer in answers] == ['"requests";q=3;w=60'] * 3
    assert [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers] == [
        '"requests";r=2',
        '"requests";r=1',
        '"requests";r=0',
    ]


def test_one_request_too_many_is_a_429_that_says_when_to_come_again(
    client: TestClient, new_key: Callable[..., str]
) -> None:
    two = limited(new_key, requests_per_minute=2)
    for _ in range(2):
        assert client.get("/v1/jobs", headers=two).status_code == 200

    refused = client.get("/v1/jobs", headers=two)

    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit"] == f'"requests";r=0;t={refused.headers["retry-after"]}'
    assert client.get("/v1/jobs", headers=limited(new_key, requests_per_minute=2)).status_code == 200, "another key"


def test_a_count_is_shared_by_all_processes(
    client: TestClient, api_settings: Settings, new_key: Callable[..., str]
) -> None:
    one = limited(new_key, requests_per_minute=1)
    assert client.get("/v1/jobs", headers=one).status_code == 200
    with TestClient(create_app(api_settings), base_url="http://localhost") as elsewhere:
        assert elsewhere.get("/v1/jobs", headers=one).status_code == 429


def test_the_aliases_count_too(client: TestClient, new_key: Callable[..., str]) -> None:
    one = limited(new_key, requests_per_minute=1)
    client.get("/v1/jobs", headers=one)
    assert client.post("/generate", json={}, headers=one).status_code == 429


def test_images_count_by_their_number(client: TestClient, concept: dict[str, Any], new_key: Callable[..., str]) -> None:
    five = limited(new_key, images_per_minute=5)

    def generate(count: int) -> Any:
        body = {"concept": "my mug", "prompt": "a <concept>", "untouched": True, "count": count}
        return client.post("/v1/generate", json=body, headers=five)

    assert generate(4).status_code == 503, "counted, and no engine runs"
    refused = generate(2)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert '"images";r=1' in refused.headers["ratelimit"]
    assert '"images";q=5;w=60' in refused.headers["ratelimit-policy"]
    assert generate(1).status_code == 503, "what did not fit was not counted"
    assert "more than this key's 5 per minute" in generate(8).json()["detail"]


def test_the_installations_limits_hold_for_keys_without_their_own(
    api_settings: Settings, new_key: Callable[..., str]
) -> None:
    strict = api_settings.model_copy(update={"requests_per_minute": 1})
    with TestClient(create_app(strict), base_url="http://localhost") as client:
        plain, free = bearer(new_key()), limited(new_key, requests_per_minute=0)
        assert [client.get("/v1/jobs", headers=plain).status_code for _ in range(2)] == [200, 429]
        answers = [client.get("/v1/jobs", headers=free) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert "ratelimit" not in answers[0].headers


def test_without_the_counters_everybody_is_served(without_counters: TestClient, new_key: Callable[..., str]) -> None:
    one = limited(new_key, requests_per_minute=1)
    with capture_logs() as lines:
        assert [without_counters.get("/v1/jobs", headers=one).status_code for _ in range(3)] == [200, 200, 200]
    assert [line["event"] for line in lines].count("limits.uncounted") == 1, "told once, not for each request"


def test_concepts_end_at_the_quota_and_an_erased_one_makes_room(
    client: TestClient, concept: dict[str, Any], upload: Callable[..., Any], new_key: Callable[..., str],
    stored: Callable[[], dict[str, int]],
) -> None:  # fmt: skip
    one = limited(new_key, max_concepts=1)
    before = stored()

    refused = upload(reference(4), reference(5), reference(6), headers=one, name="another")

    assert (refused.status_code, refused.json()["code"]) == (409, "concept_quota")
    assert "you have 1 of 1 concepts" in refused.json()["detail"]
    assert stored() == before
    client.post(f"/v1/jobs/{concept['jobs'][0]['id']}/cancel")
    client.delete(f"/v1/concepts/{concept['id']}")
    assert upload(reference(4), reference(5), reference(6), headers=one, name="another").status_code == 202


def test_training_ends_with_the_days_minutes_even_if_what_used_them_is_erased(
    client: TestClient, concept: dict[str, Any], upload: Callable[..., Any], new_key: Callable[..., str],
    trained: Callable[..., None],
) -> None:  # fmt: skip
    job_id = concept["jobs"][0]["id"]
    trained(job_id, minutes=min(30, _minutes_today()))
    used = int(min(30, _minutes_today()))
    enough, spent = limited(new_key, training_minutes_per_day=60), limited(new_key, training_minutes_per_day=used or 1)
    if used < 1:
        pytest.skip("the day is a minute old")

    for path in (f"/v1/concepts/{concept['id']}/versions", f"/v1/jobs/{job_id}/retry"):
        refused = client.post(path, json={}, headers=spent)
        assert (refused.status_code, refused.json()["code"]) == (429, "training_quota")
        assert 1 <= int(refused.headers["retry-after"]) <= 24 * 3600
        assert refused.headers["ratelimit-policy"].endswith(f'"training-minutes";q={used};w=86400')
    assert client.post(f"/v1/jobs/{job_id}/retry", headers=enough).status_code == 200
    client.post(f"/v1/jobs/{job_id}/cancel")
    client.delete(f"/v1/concepts/{concept['id']}")
    assert upload(reference(1), reference(2), reference(3), headers=spent).status_code == 429
    assert upload(
        reference(1),
        reference(2),
        reference(3),
        headers=limited(new_key, "bob", training_minutes_per_day=1),
    ).is_success


def test_yesterdays_minutes_are_forgotten(
    client: TestClient, concept: dict[str, Any], new_key: Callable[..., str], sessions: Sessions,
    trained: Callable[..., None],
) -> None:  # fmt: skip
    job_id = concept["jobs"][0]["id"]
    trained(job_id, minutes=30)
    with sessions.begin() as db:
        attempt = db.scalars(select(Attempt)).one()
        attempt.started_at -= timedelta(days=1)
        attempt.ended_at -= timedelta(days=1)
    one = limited(new_key, training_minutes_per_day=1)
    assert client.post(f"/v1/jobs/{job_id}/retry", headers=one).status_code == 200


def _minutes_today() -> float:
    now = datetime.now(UTC)
    return (now - now.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds() / 60
