"""The overview, storage and system routes, and who may read them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from api.domain.database import Sessions
from api.domain.errors import Invalid, Unavailable
from api.domain.tables import GenerateHistogram, Heartbeat, Job, JobState, Owner, Webhook, WebhookDelivery
from api.domain.webhooks import new_secret
from api.latency_histogram import bucket_of, quantile

GB = 1_000_000_000


def put_worker(sessions: Sessions, kind: str, *, silent_seconds: float = 0, **facts: Any) -> None:
    with sessions.begin() as db:
        seen_at = func.now() - timedelta(seconds=silent_seconds)
        db.add(Heartbeat(name=f"host:{kind}", kind=kind, facts=facts, seen_at=seen_at))


@pytest.fixture
def operator(client: TestClient, new_key: Callable[..., str]) -> TestClient:
    client.headers["Authorization"] = f"Bearer {new_key('admin')}"
    return client


def test_all_is_well_with_an_engine_and_a_trainer(operator: TestClient, sessions: Sessions) -> None:
    assert [item["kind"] for item in operator.get("/v1/overview").json()["attention"]] == ["no_worker", "no_worker"]
    put_worker(sessions, "engine", memory_used=4 * GB, memory_total=8 * GB)
    put_worker(sessions, "trainer")

    overview = operator.get("/v1/overview").json()

    assert overview["attention"] == []
    assert [worker["alive"] for worker in overview["workers"]] == [True, True]


def test_an_engine_shows_its_level_and_an_older_one_none(operator: TestClient, sessions: Sessions) -> None:
    reason = "no C compiler found (CC, gcc or clang); install gcc"
    put_worker(sessions, "engine", level="captured", level_reason=reason)
    put_worker(sessions, "trainer", device="cuda")

    engine, trainer = operator.get("/v1/overview").json()["workers"]

    assert (engine["level"], engine["level_reason"]) == ("captured", reason)
    assert (trainer["level"], trainer["level_reason"]) == (None, None)
    with sessions.begin() as db:
        db.execute(update(Heartbeat).values(facts={"device": "cuda"}))
    assert [worker["level"] for worker in operator.get("/v1/overview").json()["workers"]] == [None, None]


def test_a_lost_worker_and_a_full_disk_need_attention(operator: TestClient, sessions: Sessions) -> None:
    put_worker(sessions, "engine", disk_used=93 * GB, disk_total=100 * GB)
    put_worker(sessions, "trainer", silent_seconds=60)

    attention = operator.get("/v1/overview").json()["attention"]

    assert [item["kind"] for item in attention] == ["no_worker", "worker_lost", "disk"]
    assert attention[2]["message"] == "the disk of host:engine is 93% full"


def test_a_full_machine_needs_attention_once(operator: TestClient, sessions: Sessions) -> None:
    for kind in ("engine", "trainer"):
        put_worker(sessions, kind, machine="gpu-1", memory_used=93 * GB, memory_total=100 * GB)

    overview = operator.get("/v1/overview").json()

    assert [worker["machine"] for worker in overview["workers"]] == ["gpu-1", "gpu-1"]
    assert [item["message"] for item in overview["attention"]] == ["the memory of gpu-1 is 93% full"]


def test_ones_own_failed_jobs_and_webhooks_need_attention(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None], sessions: Sessions
) -> None:
    job_id = concept["jobs"][0]["id"]
    set_job(
        job_id, state=JobState.failed, error_code="oom", error_detail="no room", finished_at=datetime.now(UTC)
    )  # fmt: skip
    with sessions.begin() as db:
        owner_id = db.scalars(select(Owner.id).where(Owner.name == "alice")).one()
        hook = Webhook(owner_id=owner_id, url="https://example.org/a", events=["job.failed"], secret=new_secret())
        db.add(hook)
        db.flush()
        db.add(WebhookDelivery(webhook_id=hook.id, event="job.failed", payload={}, state="failed", tries=10))

    overview = client.get("/v1/overview").json()

    assert [(item["kind"], item["message"]) for item in overview["attention"]] == [
        ("job_failed", "training my mug v1 failed: no room"),
        ("webhook_failing", "the webhook https://example.org/a did not accept 1 messages"),
    ]
    assert overview["attention"][0]["object_id"] == job_id
    assert overview["jobs"]["failed"] == 1
    assert overview["workers"] == []


def test_an_operator_sees_only_why_others_jobs_failed(
    client: TestClient, new_key: Callable[..., str], concept: dict[str, Any], set_job: Callable[..., None]
) -> None:
    ended = {"state": JobState.failed, "finished_at": datetime.now(UTC)}
    set_job(concept["jobs"][0]["id"], error_code="oom", error_detail="my mug", **ended)
    client.headers["Authorization"] = f"Bearer {new_key('admin')}"

    attention = client.get("/v1/overview").json()["attention"]

    assert attention[-1]["message"] == "jobs of other owners failed in the last 24 hours: oom 1"
    assert attention[-1]["object_id"] is None


def test_a_day_of_images_is_read_from_the_histogram(
    client: TestClient, new_key: Callable[..., str], sessions: Sessions
) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    new_key("bob")
    with sessions.begin() as db:
        alice, bob = (db.scalars(select(Owner.id).where(Owner.name == name)).one() for name in ("alice", "bob"))
        for owner_id, outcome, milliseconds, count, age in (
            (alice, "ok", 100, 90, timedelta(0)),
            (alice, "ok", 900, 8, timedelta(hours=2)),
            (alice, "overloaded", 5, 2, timedelta(0)),
            (alice, "ok", 100, 50, timedelta(hours=25)),
            (bob, "ok", 100, 1000, timedelta(0)),
        ):
            bucket = bucket_of(milliseconds / 1000)
            db.add(GenerateHistogram(slot=now - age, owner_id=owner_id, outcome=outcome, bucket=bucket, count=count))

    figures = client.get("/v1/overview").json()["generate"]

    assert (figures["requests"], figures["errors"], figures["error_rate"]) == (100, 2, 0.02)
    assert figures["codes"] == {"overloaded": 2}
    assert figures["p50_ms"] == pytest.approx(100, rel=0.08)  # half a bucket
    assert figures["p95_ms"] == pytest.approx(900, rel=0.08)
    assert sum(hour["requests"] for hour in figures["hours"]) == 100


def test_a_quantile_is_within_half_a_bucket() -> None:
    counts = {bucket_of(milliseconds / 1000): 1 for milliseconds in (10, 20, 40, 80)}

    assert quantile(counts, 0.5) == pytest.approx(20, rel=0.08)
    assert quantile(counts, 1.0) == pytest.approx(80, rel=0.08)
    assert quantile({}, 0.5) is None


def test_requests_are_counted_by_how_they_ended(client: TestClient, sessions: Sessions) -> None:
    histogram = client.app.state.services.latency_histogram
    with sessions() as db:
        owner_id = db.scalars(select(Owner.id)).one()
    for error in (None, Unavailable("busy", "overloaded"), Invalid("no", "bad"), RuntimeError("bug")):
        try:
            with histogram.observed(owner_id):
                if error:
                    raise error
        except (Unavailable, Invalid, RuntimeError):
            pass
    assert client.portal is not None
    client.portal.call(histogram.write)
    client.portal.call(histogram.write)  # nothing is left to write twice

    with sessions() as db:
        rows = db.execute(
            select(GenerateHistogram.outcome, GenerateHistogram.count).order_by(GenerateHistogram.outcome)
        ).all()
    assert [tuple(row) for row in rows] == [("internal", 1), ("ok", 1), ("overloaded", 1)]


def test_storage_and_system_are_for_operators_and_show_no_secret(
    operator: TestClient, new_key: Callable[..., str], concept: dict[str, Any]
) -> None:
    stored = operator.get("/v1/storage").json()
    assert {kind["kind"]: kind["objects"] for kind in stored["kinds"]}["references"] == 3
    assert stored["size"] == sum(kind["size"] for kind in stored["kinds"]) > 0
    system = operator.get("/v1/system")
    settings = operator.app.state.services.settings
    assert settings.s3_secret_key.get_secret_value() not in system.text
    assert settings.database_url not in system.text
    assert system.json()["settings"]["s3_secret_key"] == "set, not shown"
    assert operator.get("/v1/audit/verify").json()["intact"] is True

    operator.headers["Authorization"] = f"Bearer {new_key('bob')}"
    for address in ("/v1/storage", "/v1/storage/retention", "/v1/system", "/v1/audit/verify"):
        assert operator.get(address).json()["code"] == "foreign_owner"
    assert operator.post("/v1/system/base-check").json()["code"] == "foreign_owner"


def test_system_names_a_clock_that_is_wrong(operator: TestClient, sessions: Sessions) -> None:
    def clocks() -> dict[str, Any]:
        [check] = [one for one in operator.get("/v1/system").json()["checks"] if one["name"] == "clocks"]
        return check

    put_worker(sessions, "engine", clock_ahead=59.4)  # below a minute is no fault
    assert clocks() == {"name": "clocks", "ok": True, "message": "ok"}
    put_worker(sessions, "trainer", clock_ahead=-7200)
    sentence = "the clock of the trainer host:trainer is 7200 s behind the database's; set it"
    assert clocks() == {"name": "clocks", "ok": False, "message": sentence}
    with sessions.begin() as db:
        db.execute(update(Heartbeat).where(Heartbeat.kind == "trainer").values(seen_at=func.now() - timedelta(days=1)))
    assert clocks()["ok"], "a trainer host that is gone is not named"


def test_the_retention_preview_counts_what_the_next_sweep_would_take(
    operator: TestClient, concept: dict[str, Any], sessions: Sessions
) -> None:
    def outdated() -> dict[str, Any]:
        answer = operator.get("/v1/storage/retention").json()
        return {one["kind"]: (one["keep_days"], one["count"]) for one in answer["outdated"]}

    assert outdated() == {"images": (None, 0), "references": (None, 0), "failed_uploads": (30, 0), "events": (90, 0)}

    with sessions.begin() as db:
        long_ago = func.now() - timedelta(days=31)
        db.execute(update(Job).values(state=JobState.failed, finished_at=long_ago))

    assert outdated()["failed_uploads"] == (30, 3)
    answer = operator.get("/v1/storage/retention").json()
    assert sum(one["size"] for one in answer["outdated"]) == operator.get("/v1/storage").json()["size"] > 0
    assert answer["last_removed"] is None
