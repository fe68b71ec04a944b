"""A job's history, previews and log, and the filters of jobs and concepts."""

import hashlib
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from api.domain import job_log
from api.domain.database import Sessions
from api.domain.job_log import LogLine
from api.domain.settings import Settings
from api.domain.storage import Storage, preview_key
from api.domain.tables import Checkpoint, JobState
from tests.api.reference_images import reference


@pytest.fixture
def job_id(concept: dict[str, Any], set_job: Callable[..., None], settings: Settings) -> str:
    """Store previews of steps 100 and 25; the job's row names only the last one."""
    found: str = concept["jobs"][0]["id"]
    for step in (100, 25):
        png = reference(step, file_format="PNG")
        Storage(settings).put_once(preview_key(UUID(found), step), png, hashlib.sha256(png).hexdigest())
    set_job(found, state=JobState.running, step=101, preview_key=preview_key(UUID(found), 100))
    return found


def test_history_has_the_states_the_previews_and_the_checkpoints(
    client: TestClient, job_id: str, sessions: Sessions
) -> None:
    with sessions.begin() as db:
        db.add(Checkpoint(job_id=UUID(job_id), fence=1, step=90, key="k", sha256="00", size=7))

    history = client.get(f"/v1/jobs/{job_id}/history").json()

    assert [moment["state"] for moment in history["states"]] == ["queued", "running"]
    assert [preview["step"] for preview in history["previews"]] == [25, 100]
    assert [(checkpoint["step"], checkpoint["size"]) for checkpoint in history["checkpoints"]] == [(90, 7)]
    preview = client.get(history["previews"][0]["url"])
    assert preview.content == reference(25, file_format="PNG")
    assert "immutable" in preview.headers["cache-control"]


def test_the_log_has_its_last_lines_oldest_first(client: TestClient, job_id: str, sessions: Sessions) -> None:
    said = [LogLine("2026-01-31T08:15:00Z", "info", f"checkpoint.committed step={step}") for step in (1, 2, 3)]
    with sessions.begin() as db:
        db.execute(job_log.append(UUID(job_id), 2, said))

    log = client.get(f"/v1/jobs/{job_id}/log", params={"lines": 2}).json()

    assert [line["text"] for line in log["lines"]] == ["checkpoint.committed step=2", "checkpoint.committed step=3"]
    assert log["lines"][0] | {"text": ""} == {"at": "2026-01-31T08:15:00Z", "fence": 2, "level": "info", "text": ""}
    assert client.get(f"/v1/jobs/{job_id}/log", params={"lines": 0}).status_code == 422


def test_another_step_or_another_owner_finds_nothing(
    client: TestClient, job_id: str, new_key: Callable[..., str]
) -> None:
    assert client.get(f"/v1/jobs/{job_id}/previews/26").json()["code"] == "no_preview"
    client.headers["Authorization"] = f"Bearer {new_key('bob')}"
    for part in ("history", "previews/25", "log"):
        assert client.get(f"/v1/jobs/{job_id}/{part}").json()["code"] == "no_such_job"


def test_jobs_are_found_by_name_concept_and_preset(client: TestClient, concept: dict[str, Any]) -> None:
    def found(**asked: str) -> int:
        return len(client.get("/v1/jobs", params=asked).json()["items"])

    assert found(name="MUG") == found(concept_id=concept["id"]) == found(preset="default") == 1
    assert found(name="my%") == found(preset="paper") == 0
    assert found(concept_id="0198c0de-7e57-7000-8000-000000000002") == 0


def test_concepts_are_found_by_name_and_state(client: TestClient, concept: dict[str, Any]) -> None:
    def found(**asked: str) -> int:
        return len(client.get("/v1/concepts", params=asked).json()["items"])

    assert found(name="mug") == found(state="queued") == 1
    assert found(name="teapot") == found(state="ready") == 0
