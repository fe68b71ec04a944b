"""A concept whose references were removed by retention."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi.testclient import TestClient

from api.domain import retention
from api.domain.database import Sessions
from api.domain.retention import Cutoffs
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.domain.tables import JobState


def test_it_is_not_trained_without_them(
    client: TestClient,
    concept: dict[str, Any],
    set_job: Callable[..., None],
    settings: Settings,
    sessions: Sessions,
    stored: Callable[[], dict[str, int]],
) -> None:
    job_id = concept["jobs"][0]["id"]
    set_job(job_id, state=JobState.failed, finished_at=datetime.now(UTC), error_code="oom")
    in_31_days = Cutoffs.at(datetime.now(UTC) + timedelta(days=31), settings)

    assert retention.sweep(in_31_days, sessions, Storage(settings)).failed_uploads == 3

    assert stored() == {"concept": 1, "job": 1, "reference": 0, "objects": 0}
    assert client.get(f"/v1/concepts/{concept['id']}").json()["references"] == []
    for path in (f"/v1/concepts/{concept['id']}/versions", f"/v1/jobs/{job_id}/retry"):
        answer = client.post(path, json={})
        assert (answer.status_code, answer.json()["code"]) == (409, "references_gone")
    assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "failed"
    assert len(client.get("/v1/jobs").json()["items"]) == 1
