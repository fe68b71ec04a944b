"""The verdict and the images of a report card, at the job and at the concept."""

import hashlib
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from api.domain import jobs
from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.storage import Storage, job_image_key
from tests.api.reference_images import reference

VERDICT = {"name": "learned_well", "color": "green", "sentence": "Learned well: the likeness rose from 0.38 to 0.56."}
FIGURES = {"prompts": ["a <concept> in the snow"], "seeds": [1000], "personalised": {}, "untouched": {}}

Finish = Callable[..., str]


@pytest.fixture
def finish(concept: dict[str, Any], sessions: Sessions) -> Finish:
    """End the concept's job with this report."""

    def end(report: dict[str, Any] | None) -> str:
        job_id = UUID(concept["jobs"][0]["id"])
        with sessions.begin() as db:
            (_, fence, _) = db.execute(jobs.claim("w", lease_seconds=60, job_id=job_id)).one()
            db.execute(jobs.finish(job_id, fence, key="bundles/0.safetensors", sha256="00", size=1, report=report))
        return str(job_id)

    return end


def test_a_job_and_its_concept_show_the_verdict_and_the_images(
    client: TestClient, concept: dict[str, Any], finish: Finish, settings: Settings
) -> None:
    pngs = [reference(n, file_format="PNG") for n in (7, 8)]
    hashes = [hashlib.sha256(png).hexdigest() for png in pngs]
    for png, sha256 in zip(pngs, hashes, strict=True):
        Storage(settings).put_once(job_image_key(UUID(concept["jobs"][0]["id"]), sha256), png, sha256)
    job_id = finish({**FIGURES, "verdict": VERDICT, "images": hashes})
    urls = [f"/v1/jobs/{job_id}/images/1", f"/v1/jobs/{job_id}/images/2"]

    for shown in (
        client.get(f"/v1/jobs/{job_id}").json(),
        client.get("/v1/jobs").json()["items"][0],
        client.get(f"/v1/concepts/{concept['id']}").json(),
        client.get("/v1/concepts").json()["items"][0],
    ):
        assert (shown["verdict"], shown["image_urls"]) == (VERDICT, urls)
    assert [client.get(url).content for url in urls] == pngs
    assert client.get(f"/v1/jobs/{job_id}/images/3").json()["code"] == "no_such_image"
    assert client.get(f"/v1/jobs/{job_id}/images/0").json()["code"] == "no_such_image"


@pytest.mark.parametrize("why", [None, "Learned after 300 of at most 430 iterations."])
def test_a_job_says_why_it_ended_early(
    client: TestClient, concept: dict[str, Any], finish: Finish, why: str | None
) -> None:
    job_id = finish({**FIGURES, "verdict": VERDICT, "images": [], "ended_early": why})
    assert client.get(f"/v1/jobs/{job_id}").json()["ended_early"] == why
    assert client.get("/v1/jobs").json()["items"][0]["ended_early"] == why


def test_a_jobs_page_says_why_it_ended_early(
    client: TestClient, concept: dict[str, Any], finish: Finish, new_key: Callable[..., str]
) -> None:
    why = "Learned after 300 of at most 430 iterations."
    job_id = finish({**FIGURES, "verdict": VERDICT, "images": [], "ended_early": why})
    assert client.post("/dashboard/sign-in", data={"key": new_key()}).status_code == 303
    assert why in client.get(f"/dashboard/jobs/{job_id}").text


@pytest.mark.parametrize("report", [None, FIGURES])
def test_a_version_without_a_verdict_shows_none(
    client: TestClient, concept: dict[str, Any], finish: Finish, report: dict[str, Any] | None
) -> None:
    """A base without scene prompts cannot be evaluated, and an older report has neither verdict nor images."""
    job_id = finish(report)

    for shown in (client.get(f"/v1/jobs/{job_id}").json(), client.get(f"/v1/concepts/{concept['id']}").json()):
        assert (shown["verdict"], shown["image_urls"]) == (None, [])
    assert client.get(f"/v1/jobs/{job_id}/images/1").json()["code"] == "no_such_image"
