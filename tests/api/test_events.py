"""Watch a job through a real server while a worker's statements change it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text

from api.domain import jobs
from api.domain.database import Sessions
from api.domain.job_reports import JobProgress
from api.domain.tables import JobEvent, JobState
from api.routes import events
from tests.job_life import wait_until

ITERATIONS = {2: {"mse": 0.5}, 3: {"mse": 0.25}}
PROGRESS = JobProgress("distillation", 3, 10, 7.5, {"mse": 0.25}, "jobs/x/previews/3.png", "history", ITERATIONS)


@pytest.fixture
def job_id(concept: dict[str, Any]) -> UUID:
    return UUID(concept["jobs"][0]["id"])


@pytest.fixture
def watch(served: str, client: TestClient, job_id: UUID) -> Callable[..., Any]:
    """`with watch() as lines:` yields the lines of the job's stream; the connection stays open until the block ends."""

    @contextmanager
    def opened(last: str | None = None, key: str | None = None) -> Iterator[httpx.Response]:
        headers = {"Authorization": f"Bearer {key}" if key else client.headers["Authorization"]}
        headers |= {"Last-Event-ID": last} if last else {}
        with (
            httpx.Client(base_url=served, headers=headers, timeout=60, trust_env=False) as http,
            http.stream("GET", f"/v1/jobs/{job_id}/events") as answer,
        ):
            yield answer

    return opened


def told(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Return kind, data and id of each event of a stream."""
    event: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif "data" in event:
            yield event["event"], json.loads(event["data"]), event["id"]
            event = {}


def learn(sessions: Sessions, job_id: UUID) -> None:
    with sessions.begin() as db:
        db.execute(jobs.claim("w", lease_seconds=60, job_id=job_id))
    with sessions.begin() as db:
        db.execute(jobs.heartbeat(job_id, 1, lease_seconds=60, progress=PROGRESS))
    with sessions.begin() as db:
        db.execute(jobs.finish(job_id, 1, key="k", sha256="00", size=1))


def test_a_finished_job_is_replayed_from_its_start_and_the_stream_ends(
    watch: Callable[..., Any], sessions: Sessions, job_id: UUID
) -> None:
    learn(sessions, job_id)

    with watch() as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        seen = [(kind, data) for kind, data, _ in told(answer.iter_lines())]

    quiet = {"cancel_requested": False, "error": None}
    losses = {"stage": "distillation", "total_steps": 10, "losses": {"mse": 0.25}}
    both = [{"step": 2, "losses": {"mse": 0.5}}, {"step": 3, "losses": {"mse": 0.25}}]
    assert seen == [
        ("state", {"state": "queued", "attempt": 0, **quiet}),
        ("state", {"state": "running", "attempt": 1, **quiet}),
        ("progress", {"step": 3, "eta_seconds": 7.5, "eta_source": "history", "iterations": both, **losses}),
        ("preview", {"step": 3, "url": f"/v1/jobs/{job_id}/preview"}),
        ("progress", {"step": 10, "eta_seconds": None, "eta_source": None, "iterations": [], **losses}),
        ("state", {"state": "succeeded", "attempt": 1, **quiet}),
    ]


def test_events_arrive_as_they_happen(watch: Callable[..., Any], sessions: Sessions, job_id: UUID) -> None:
    with watch() as answer:
        stream = told(answer.iter_lines())
        assert next(stream)[1]["state"] == "queued"
        with sessions.begin() as db:
            db.execute(jobs.claim("w", lease_seconds=60, job_id=job_id))
        assert next(stream)[1]["state"] == "running"
        with sessions.begin() as db:
            db.execute(jobs.request_cancel(job_id))
        assert next(stream)[1]["cancel_requested"] is True
        with sessions.begin() as db:
            db.execute(jobs.fail(job_id, 1, code="oom", detail="too little memory"))
        assert next(stream)[1]["error"] == {"code": "oom", "detail": "too little memory"}
        assert list(stream) == [], "failed is final: the stream ends"


def test_a_returning_client_continues_after_its_last_event(
    watch: Callable[..., Any], sessions: Sessions, job_id: UUID
) -> None:
    with watch() as answer:
        _, _, seen = next(told(answer.iter_lines()))
    learn(sessions, job_id)

    with watch(last=seen) as answer:
        missed = list(told(answer.iter_lines()))
    assert [data.get("state", kind) for kind, data, _ in missed] == [
        "running", "progress", "preview", "progress", "succeeded",
    ]  # fmt: skip
    with watch(last=missed[-1][2]) as answer:
        assert answer.status_code == 204, "nothing will follow"


def test_a_retried_job_is_live_again(
    watch: Callable[..., Any], client: TestClient, sessions: Sessions, job_id: UUID
) -> None:
    with sessions.begin() as db:
        db.execute(jobs.request_cancel(job_id))
    client.post(f"/v1/jobs/{job_id}/retry")

    with watch() as answer:
        stream = told(answer.iter_lines())
        assert [next(stream)[1]["state"] for _ in range(3)] == ["queued", "cancelled", "queued"]


def test_a_quiet_stream_is_kept_alive(watch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, job_id: UUID) -> None:
    monkeypatch.setattr(events, "KEEPALIVE_SECONDS", 0.1)

    with watch() as answer:
        assert next(line for line in answer.iter_lines() if line.startswith(":")) == ": ping"


def test_more_events_than_one_query_reads_all_arrive(
    watch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, sessions: Sessions, job_id: UUID
) -> None:
    monkeypatch.setattr(events, "MAX_EVENTS", 2)
    learn(sessions, job_id)

    with watch() as answer:
        assert len(list(told(answer.iter_lines()))) == 6


def test_a_client_that_went_away_leaves_nothing_open(
    watch: Callable[..., Any], sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the client is gone, no query reaches the database any more."""
    monkeypatch.setattr(events, "POLL_SECONDS", 0.01)
    looked_at = text(
        "SELECT max(query_start) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    def last_look() -> Any:
        with sessions() as db:
            return db.scalar(looked_at)

    with watch() as answer:
        stream = told(answer.iter_lines())  # dropped, it would close the connection
        next(stream)
        first = last_look()
        wait_until(lambda: last_look() != first, seconds=20, what="another look")

    def quiet() -> bool:
        before = last_look()
        time.sleep(0.5)  # fifty looks' time, in which nothing must happen: there is no event to wait for
        return bool(last_look() == before)

    wait_until(quiet, seconds=30, what="the end of the looks")


def test_a_stopping_server_ends_its_streams(watch: Callable[..., Any], server: uvicorn.Server) -> None:
    """Otherwise it would wait 15 s and then cut them off, which raises here."""
    with watch() as answer:
        stream = told(answer.iter_lines())
        next(stream)
        server.should_exit = True
        assert list(stream) == []


def test_nobody_watches_what_is_anothers(watch: Callable[..., Any], new_key: Callable[..., str]) -> None:
    with watch(key=new_key("bob")) as answer:
        assert answer.status_code == 404
    with watch(last="yesterday") as answer:
        assert answer.status_code == 422


def test_a_change_that_is_rolled_back_adds_no_event(sessions: Sessions, job_id: UUID) -> None:
    def count() -> int | None:
        with sessions() as db:
            return db.scalar(select(func.count()).select_from(JobEvent))

    before = count()
    with sessions() as db:
        db.execute(jobs.claim("w", lease_seconds=60, job_id=job_id))
        db.rollback()
    assert count() == before
    with sessions.begin() as db:
        db.execute(jobs.claim("w", lease_seconds=60, job_id=job_id))
        db.execute(jobs.heartbeat(job_id, 1, lease_seconds=60))
    assert count() == before + 1, "a renewed lease is no news"


def test_an_erased_concepts_events_go_with_it(
    client: TestClient, concept: dict[str, Any], job_id: UUID, sessions: Sessions, set_job: Callable[..., None]
) -> None:
    set_job(str(job_id), state=JobState.cancelled)
    assert client.delete(f"/v1/concepts/{concept['id']}").status_code == 200
    with sessions() as db:
        assert db.scalar(select(func.count()).select_from(JobEvent)) == 0


def test_a_key_has_a_limit_of_open_streams(
    served: str, new_key: Callable[..., str], client: TestClient, concept: dict[str, Any]
) -> None:
    address = f"{served}/v1/jobs/{concept['jobs'][0]['id']}/events"

    def opened(key: str, stack: ExitStack) -> httpx.Response:
        reader = stack.enter_context(httpx.Client(headers={"Authorization": f"Bearer {key}"}, trust_env=False))
        return stack.enter_context(reader.stream("GET", address, timeout=10))

    one, other = new_key(), new_key()
    with ExitStack() as stack:
        streams = [opened(one, stack).iter_lines() for _ in range(events.MAX_STREAMS)]  # the end of one would close it
        for lines in streams:
            next(lines)  # it counts from its first event
        refused = opened(one, stack)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "15")
        assert json.loads(refused.read())["code"] == "too_many_streams"
        assert opened(other, stack).status_code == 200

    def is_free() -> bool:
        with ExitStack() as stack:
            return opened(one, stack).status_code == 200

    wait_until(is_free, seconds=30, what="the end of the closed streams")
