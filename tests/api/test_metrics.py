from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func

from api.domain import keys
from api.domain.database import Sessions
from api.domain.tables import Attempt, Heartbeat, JobState
from api.metrics import observe_generate
from tests.api.test_auth import bearer


def values(client: TestClient, key: str) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics", headers=bearer(key))
    assert answer.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_jobs_attempts_and_messages_are_counted(
    client: TestClient, new_key: Callable[..., str], concept: dict[str, Any], set_job: Callable[..., None],
    sessions: Sessions,
) -> None:  # fmt: skip
    key = new_key(keys.ADMIN_OWNER, scopes=("read",))
    client.post("/v1/webhooks", json={"url": "https://93.184.216.34/"})
    job_id = concept["jobs"][0]["id"]
    assert values(client, key)["opad_jobs", "queued"] == 1
    client.post(f"/v1/jobs/{job_id}/cancel")
    now = datetime.now(UTC)
    began = now - timedelta(seconds=120)
    set_job(
        job_id, state=JobState.succeeded, created_at=began - timedelta(seconds=20), started_at=began, finished_at=now
    )  # fmt: skip
    with sessions.begin() as db:
        for fence, (seconds, cause) in enumerate(((30, "lost_worker"), (60, "succeeded")), 1):
            worked = {"started_at": now - timedelta(seconds=seconds), "ended_at": now, "cause": cause}
            db.add(Attempt(job_id=UUID(job_id), fence=fence, worker="w", **worked))

    after = values(client, key)

    assert (after["opad_jobs", "queued"], after["opad_jobs", "succeeded"]) == (0, 1)
    assert after["opad_job_seconds_bucket", "60.0", "succeeded"] == 0
    assert after["opad_job_seconds_bucket", "300.0", "succeeded"] == 1
    assert after["opad_job_seconds_sum", "succeeded"] == 90  # 30 + 60 of the 120
    assert after["opad_job_queued_seconds_sum", "succeeded"] == 20
    assert after["opad_attempts_lost",] == 1
    assert after["opad_webhook_messages", "pending"] == 1


def test_the_rate_is_that_of_the_running_jobs(
    client: TestClient, new_key: Callable[..., str], concept: dict[str, Any], set_job: Callable[..., None]
) -> None:
    key, job_id = new_key(keys.ADMIN_OWNER), concept["jobs"][0]["id"]
    assert values(client, key)["opad_training_iterations_per_second",] == 0
    set_job(job_id, state=JobState.running, step=100, total_steps=400, eta_seconds=120.0)
    assert values(client, key)["opad_training_iterations_per_second",] == 2.5
    set_job(job_id, state=JobState.running, step=400, total_steps=400, eta_seconds=0.0)
    assert values(client, key)["opad_training_iterations_per_second",] == 0
    set_job(job_id, state=JobState.cancelled, step=100, eta_seconds=120.0)
    assert values(client, key)["opad_training_iterations_per_second",] == 0


def test_generate_is_measured_by_where_the_concept_was_found(client: TestClient, new_key: Callable[..., str]) -> None:
    key = new_key(keys.ADMIN_OWNER)
    before = values(client, key)
    observe_generate({"bundle": "hit", "kv": "hit"}, 0.12)
    observe_generate({"bundle": "hit", "kv": "miss"}, 0.12)
    observe_generate({"bundle": "miss", "kv": "miss"}, 0.12)
    after = values(client, key)
    for cache in ("hit", "kv_miss", "bundle_miss"):
        name = ("opad_generate_seconds_count", cache)
        assert after[name] == before.get(name, 0) + 1


def test_metrics_are_the_operators(client: TestClient, new_key: Callable[..., str]) -> None:
    assert client.get("/metrics", headers={"Authorization": ""}).status_code == 401
    assert client.get("/metrics", headers=bearer(new_key("bob"))).status_code == 403


def test_running_engines_are_counted_by_level(
    client: TestClient, new_key: Callable[..., str], sessions: Sessions
) -> None:
    key = new_key(keys.ADMIN_OWNER, scopes=("read",))
    with sessions.begin() as db:
        for name, facts in (("a", {"level": "compiled"}), ("b", {"level": "compiled"}), ("c", {"device": "cuda"})):
            db.add(Heartbeat(name=name, kind="engine", facts=facts))
        db.add(Heartbeat(name="t", kind="trainer", facts={}))
        long_ago = func.now() - timedelta(seconds=60)
        db.add(Heartbeat(name="lost", kind="engine", facts={"level": "eager"}, seen_at=long_ago))

    found = values(client, key)

    levels = ("eager", "captured", "compiled", "unknown")
    assert [found["opad_engines", level] for level in levels] == [0, 0, 2, 1]
