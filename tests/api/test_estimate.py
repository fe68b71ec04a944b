"""Predicted times of jobs, queued, running and not yet created, and what jobs report of their past."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.domain import jobs
from api.domain.database import Sessions
from api.domain.tables import Attempt, Heartbeat, Job, JobState, ServedBase
from api.domain.training_times import StageTime, TrainingTime, timing
from tests.api.reference_images import reference

PRESET = {"iterations": 100, "collaborative_iterations": 10, "teacher_first": False}
TIME = TrainingTime({"distillation": StageTime(12.0, 0.25), "collaborative": StageTime(3.0, 0.5)}, 8.0, "measured")
WHOLE = 53.0
"""12 + 100 x 0.25, 3 + 10 x 0.5, and 8 at the end."""


@pytest.fixture
def presets(base: None, sessions: Sessions) -> None:
    with sessions.begin() as db:
        db.execute(update(ServedBase).values(presets={"default": PRESET, "paper": PRESET}))


@pytest.fixture
def queue(upload: Callable[..., Any], presets: None) -> Callable[..., str]:
    """Create a concept of this name and return its job's id."""

    def create(name: str, **fields: str) -> str:
        answer = upload(reference(1), reference(2), reference(3), name=name, **fields)
        assert answer.status_code == 202, answer.text
        return answer.json()["job"]["id"]

    return create


@pytest.fixture
def start_trainers(sessions: Sessions) -> Callable[[int], None]:
    def start(count: int) -> None:
        with sessions.begin() as db:
            for n in range(count):
                db.add(Heartbeat(name=f"trainer {n}", kind="trainer", facts={"device": "cpu"}))

    return start


def learn(sessions: Sessions, job_id: str) -> None:
    with sessions.begin() as db:
        _, fence, _ = db.execute(jobs.claim("w", lease_seconds=60, job_id=UUID(job_id))).one()
    with sessions.begin() as db:
        db.execute(jobs.finish(UUID(job_id), fence, key="k", sha256="00", size=1, timing=timing(TIME, "cpu"))).one()


def times(client: TestClient, job_id: str) -> tuple[float | None, float | None, str | None]:
    job = client.get(f"/v1/jobs/{job_id}").json()
    return job["starts_in_seconds"], job["eta_seconds"], job["eta_source"]


def test_the_first_training_is_an_estimate_and_the_next_is_predicted_from_the_past(
    client: TestClient, queue: Callable[..., str], sessions: Sessions, start_trainers: Callable[[int], None]
) -> None:
    start_trainers(1)
    first = client.get("/v1/estimate").json()
    learn(sessions, queue("first"))

    second = client.get("/v1/estimate").json()

    assert (first["source"], first["starts_in_seconds"], first["jobs_ahead"]) == ("estimate", 0, 0)
    assert first["training_seconds"] > 0
    assert second == {"training_seconds": WHOLE, "source": "history", "starts_in_seconds": 0, "jobs_ahead": 0}
    shorter = client.get("/v1/estimate?iterations=20&collaborative_iterations=0").json()
    assert shorter["training_seconds"] == 25  # 12 + 20 x 0.25 + 8


def test_a_queued_job_waits_for_those_before_it(
    client: TestClient,
    queue: Callable[..., str],
    sessions: Sessions,
    set_job: Callable[..., None],
    start_trainers: Callable[[int], None],
) -> None:
    start_trainers(1)
    learn(sessions, queue("past"))
    running, second, third = queue("running"), queue("second"), queue("third")
    set_job(running, state=JobState.running, eta_seconds=30.0, eta_source="measured")

    assert times(client, running) == (None, 30, "measured")
    assert times(client, second) == (30, 30 + WHOLE, "history")
    assert times(client, third) == (30 + WHOLE, 30 + 2 * WHOLE, "history")
    new = client.get("/v1/estimate").json()
    assert (new["starts_in_seconds"], new["jobs_ahead"]) == (30 + 2 * WHOLE, 3)


def test_more_trainers_share_the_queue(
    client: TestClient,
    queue: Callable[..., str],
    sessions: Sessions,
    set_job: Callable[..., None],
    start_trainers: Callable[[int], None],
) -> None:
    start_trainers(2)
    learn(sessions, queue("past"))
    running, second, third = queue("running"), queue("second"), queue("third")
    set_job(running, state=JobState.running, eta_seconds=100.0, eta_source="measured")

    assert times(client, second) == (0, WHOLE, "history")
    assert times(client, third) == (WHOLE, 2 * WHOLE, "history")
    new = client.get("/v1/estimate").json()
    assert (new["starts_in_seconds"], new["jobs_ahead"]) == (100, 2)


def test_a_running_job_without_a_report_has_the_whole_time_left(
    client: TestClient, queue: Callable[..., str], sessions: Sessions, set_job: Callable[..., None]
) -> None:
    learn(sessions, queue("past"))
    running = queue("running")
    set_job(running, state=JobState.running)

    assert times(client, running) == (None, WHOLE, "history")


def test_a_job_that_is_queued_again_has_the_rest_left(
    client: TestClient,
    queue: Callable[..., str],
    sessions: Sessions,
    set_job: Callable[..., None],
    start_trainers: Callable[[int], None],
) -> None:
    start_trainers(1)
    learn(sessions, queue("past"))
    resumed = queue("resumed")
    set_job(resumed, step=60, total_steps=110)

    assert times(client, resumed) == (0, WHOLE - 60 * 0.25, "history")


def test_without_a_trainer_nobody_knows_the_start(
    client: TestClient, queue: Callable[..., str], sessions: Sessions
) -> None:
    learn(sessions, queue("past"))

    assert times(client, queue("waiting")) == (None, None, None)
    assert client.get("/v1/estimate").json()["training_seconds"] == WHOLE


def test_waiting_and_working_are_counted_apart(
    client: TestClient, concept: dict[str, Any], sessions: Sessions, set_job: Callable[..., None]
) -> None:
    job_id, created = concept["jobs"][0]["id"], datetime(2026, 1, 31, 8, 0, tzinfo=UTC)

    def after(minutes: float) -> datetime:
        return created + timedelta(minutes=minutes)

    set_job(
        job_id, state=JobState.succeeded, created_at=created, started_at=after(2), finished_at=after(15), attempt=2
    )  # fmt: skip
    with sessions.begin() as db:
        for fence, (began, ended) in enumerate(((2, 5), (8, 15)), 1):
            times = {"started_at": after(began), "ended_at": after(ended)}
            db.add(Attempt(job_id=UUID(job_id), fence=fence, worker="w", **times))

    job = client.get(f"/v1/jobs/{job_id}").json()

    seconds = (job["queued_seconds"], job["worked_seconds"], job["between_attempts_seconds"])
    assert seconds == (2 * 60, 3 * 60 + 7 * 60, 3 * 60)
    assert (job["eta_seconds"], job["eta_source"]) == (None, None)


def test_a_queued_job_has_only_waited(client: TestClient, concept: dict[str, Any], sessions: Sessions) -> None:
    job_id = concept["jobs"][0]["id"]
    with sessions.begin() as db:
        db.execute(update(Job).values(created_at=datetime.now(UTC) - timedelta(hours=1)))

    job = client.get(f"/v1/jobs/{job_id}").json()

    assert 3600 <= job["queued_seconds"] < 3700
    assert (job["worked_seconds"], job["between_attempts_seconds"]) == (0, 0)
