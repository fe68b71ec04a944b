import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import redis
from fastapi.testclient import TestClient

from api.domain import jobs
from api.domain.database import Sessions
from api.domain.jobs import notify_queue
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.domain.tables import Attempt, JobState
from tests.api.reference_images import reference


def test_a_running_job_reports_its_progress(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None]
) -> None:
    job_id = concept["jobs"][0]["id"]
    set_job(
        job_id, state=JobState.running, stage="distillation", step=30, total_steps=120, eta_seconds=45.5,
        losses={"rec": 0.25}, attempt=1,
    )  # fmt: skip

    job = client.get(f"/v1/jobs/{job_id}").json()

    assert job["state"] == "running"
    assert job["stage"] == "distillation"
    assert job["progress"] == 0.25
    assert job["eta_seconds"] == 45.5
    assert job["losses"] == {"rec": 0.25}
    assert job["queue_position"] is None
    assert job["concept_name"] == "my mug"


def test_a_job_says_where_its_wall_time_went(
    client: TestClient, concept: dict[str, Any], sessions: Sessions, set_job: Callable[..., None]
) -> None:
    job_id, began = concept["jobs"][0]["id"], datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
    assert client.get(f"/v1/jobs/{job_id}").json()["wall_time"] == []

    parts = ({"start": 2.0, "distillation": 7.5}, {"start": 1.5, "collaborative": 20.0, "report_card": 3.0})
    set_job(job_id, state=JobState.succeeded, attempt=2, started_at=began, finished_at=began + timedelta(seconds=40))
    with sessions.begin() as db:
        for fence, (wall_time, seconds) in enumerate(zip(parts, (15, 24.5), strict=True), 1):
            ended = began + timedelta(seconds=seconds)
            db.add(
                Attempt(
                    job_id=UUID(job_id), fence=fence, worker="w", started_at=began, ended_at=ended, wall_time=wall_time
                )
            )

    job = client.get(f"/v1/jobs/{job_id}").json()

    assert job["wall_time"] == [
        {"part": "start", "seconds": 3.5},
        {"part": "distillation", "seconds": 7.5},
        {"part": "collaborative", "seconds": 20.0},
        {"part": "report_card", "seconds": 3.0},
        {"part": "unreported", "seconds": 5.5},  # 15 - 9.5: the first trainer died
    ]
    assert sum(part["seconds"] for part in job["wall_time"]) == job["worked_seconds"]


def test_a_failed_job_says_why(client: TestClient, concept: dict[str, Any], set_job: Callable[..., None]) -> None:
    job_id = concept["jobs"][0]["id"]
    set_job(job_id, state=JobState.failed, error_code="oom", error_detail="the GPU has too little memory")

    job = client.get(f"/v1/jobs/{job_id}").json()

    assert job["error"] == {"code": "oom", "detail": "the GPU has too little memory"}
    assert client.get(f"/v1/concepts/{concept['id']}").json()["state"] == "failed"


def test_the_queue_counts_everybodys_jobs(
    client: TestClient, upload: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    bob = {"Authorization": f"Bearer {new_key('bob')}"}
    upload(reference(1), reference(2), reference(3), headers=bob)
    job_id = upload(reference(1), reference(2), reference(3)).json()["job"]["id"]

    assert client.get(f"/v1/jobs/{job_id}").json()["queue_position"] == 2


def test_jobs_are_listed_by_state_and_page(
    client: TestClient, upload: Callable[..., Any], set_job: Callable[..., None]
) -> None:
    ids = [upload(reference(1), reference(2), reference(3), name=f"thing {n}").json()["job"]["id"] for n in range(3)]
    set_job(ids[0], state=JobState.succeeded)

    first = client.get("/v1/jobs?limit=2").json()
    rest = client.get(f"/v1/jobs?limit=2&cursor={first['next']}").json()
    done = client.get("/v1/jobs?state=succeeded").json()

    assert [job["id"] for job in first["items"]] == [ids[2], ids[1]]
    assert [job["id"] for job in rest["items"]] == [ids[0]]
    assert rest["next"] is None
    assert [(job["id"], job["progress"]) for job in done["items"]] == [(ids[0], 1.0)]


def test_the_preview_is_the_newest_one(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None], settings: Settings
) -> None:
    job_id = concept["jobs"][0]["id"]
    none_yet = client.get(f"/v1/jobs/{job_id}/preview")
    assert none_yet.status_code == 404
    assert none_yet.json()["code"] == "no_preview"

    png = reference(1, file_format="PNG")
    Storage(settings).put_once("jobs/x/previews/5.png", png, hashlib.sha256(png).hexdigest())
    set_job(job_id, preview_key="jobs/x/previews/5.png")

    answer = client.get(f"/v1/jobs/{job_id}/preview")
    assert answer.content == png
    assert answer.headers["content-type"] == "image/png"
    same = client.get(f"/v1/jobs/{job_id}/preview", headers={"If-None-Match": answer.headers["etag"]})
    assert same.status_code == 304


def test_a_lost_preview_is_our_fault_and_names_no_key(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None]
) -> None:
    job_id = concept["jobs"][0]["id"]
    set_job(job_id, preview_key="jobs/x/previews/lost.png")

    answer = client.get(f"/v1/jobs/{job_id}/preview")

    assert answer.status_code == 500
    assert answer.json()["code"] == "stored_file_damaged"
    assert "previews" not in answer.text.replace("/preview", "")


def test_a_queued_job_is_cancelled_at_once(client: TestClient, concept: dict[str, Any]) -> None:
    job_id = concept["jobs"][0]["id"]

    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"

    again = client.post(f"/v1/jobs/{job_id}/cancel")
    assert again.status_code == 409
    assert again.json()["code"] == "job_over"
    assert again.json()["state"] == "cancelled"


def test_a_running_job_stores_the_cancel_request(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None]
) -> None:
    job_id = concept["jobs"][0]["id"]
    set_job(job_id, state=JobState.running)

    job = client.post(f"/v1/jobs/{job_id}/cancel").json()

    assert (job["state"], job["cancel_requested"]) == ("running", True)


def test_a_failed_job_is_queued_again_with_new_attempts(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None], settings: Settings
) -> None:
    job_id = concept["jobs"][0]["id"]
    set_job(job_id, state=JobState.failed, attempt=3, error_code="oom", error_detail="no memory", step=40)
    broker = redis.Redis(unix_socket_path=settings.redis_url.removeprefix("redis+socket://").partition("?")[0])
    broker.delete(notify_queue("default"))

    job = client.post(f"/v1/jobs/{job_id}/retry").json()

    assert (job["state"], job["attempt"], job["error"], job["queue_position"]) == ("queued", 0, None, 1)
    assert job_id.encode() in broker.lpop(notify_queue("default"))


def test_only_a_failed_or_cancelled_job_is_retried(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None]
) -> None:
    job_id = concept["jobs"][0]["id"]
    waiting = client.post(f"/v1/jobs/{job_id}/retry")
    assert (waiting.status_code, waiting.json()["code"]) == (409, "job_not_over")
    set_job(job_id, state=JobState.succeeded)
    done = client.post(f"/v1/jobs/{job_id}/retry")
    assert (done.status_code, done.json()["code"]) == (409, "job_over")


def test_attempts_name_their_worker_and_why_they_ended(
    client: TestClient, concept: dict[str, Any], sessions: Sessions, new_key: Callable[..., str]
) -> None:
    job_id = UUID(concept["jobs"][0]["id"])
    with sessions.begin() as db:
        (_, fence, _) = db.execute(jobs.claim("host-1/slot-1", lease_seconds=60, job_id=job_id)).one()
        db.execute(jobs.requeue(job_id, fence))
        db.execute(jobs.claim("host-2/slot-1", lease_seconds=60, job_id=job_id))

    attempts = client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]

    assert [(a["worker"], a["cause"]) for a in attempts] == [("host-1/slot-1", "shutdown"), ("host-2/slot-1", None)]
    bob = {"Authorization": f"Bearer {new_key('bob')}"}
    assert client.get(f"/v1/jobs/{job_id}/attempts", headers=bob).status_code == 404
