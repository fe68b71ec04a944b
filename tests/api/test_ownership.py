"""Every route refuses another owner's objects."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from uuid_utils.compat import uuid7

from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.storage import Storage, bundle_key, image_key, job_image_key, preview_key
from api.domain.tables import Bundle, Concept, Image, JobState
from tests.api.test_auth import bearer
from tests.study_folder import write_study
from worker.study_import import import_study

FILE = b"a bundle or an image"

_BODIES: dict[tuple[str, str], Any] = {
    ("post", "/v1/concepts/{concept_id}/versions"): {},
    ("post", "/v1/concepts/{concept_id}/preferences"): {"preferred": 1, "other": 0, "prompt": "a <concept>", "seed": 1},
    ("post", "/v1/keys/{key_id}/rotate"): {},
    ("post", "/v1/webhooks/{webhook_id}/rotate"): {},
    ("post", "/v1/studies/{study_id}/votes"): {"image_id": str(UUID(int=0))},
}
"""Valid bodies for the routes that need one."""


@pytest.fixture
def alices(
    client: TestClient,
    concept: dict[str, Any],
    sessions: Sessions,
    settings: Settings,
    set_job: Callable[..., None],
    tmp_path: Path,
) -> dict[str, str]:
    """One object of alice for each path parameter; her concept is trained and has a stored image."""
    concept_id, job_id, image_id = UUID(concept["id"]), concept["jobs"][0]["id"], uuid7()
    stored = {"sha256": hashlib.sha256(FILE).hexdigest(), "size": len(FILE)}
    bundle, image = bundle_key(stored["sha256"]), image_key(concept_id, image_id, "png")
    report_image = job_image_key(UUID(job_id), stored["sha256"])
    for key in (bundle, image, preview_key(UUID(job_id), 25), report_image):
        Storage(settings).put_once(key, FILE, stored["sha256"])
    with sessions.begin() as db:
        report = {"prompts": [], "seeds": [], "personalised": {}, "untouched": {}, "images": [stored["sha256"]]}
        db.add(Bundle(job_id=UUID(job_id), concept_id=concept_id, version=1, key=bundle, report=report, **stored))
        owner_id = db.get_one(Concept, concept_id).owner_id
        db.add(Image(id=image_id, owner_id=owner_id, concept_id=concept_id, version=1, prompt="a <concept>", seed=1,
                     format="png", key=image, **stored))  # fmt: skip
    set_job(job_id, state=JobState.succeeded)
    key = client.post("/v1/keys", json={"name": "frame", "scopes": ["read"]}).json()
    webhook = client.post("/v1/webhooks", json={"url": "https://93.184.216.34/"}).json()
    delivery = client.post(f"/v1/webhooks/{webhook['id']}/ping").json()
    write_study(tmp_path / "study")
    study = import_study(
        tmp_path / "study", owner_name="alice", sessions=sessions, storage=Storage(settings), say=lambda line: None
    )
    group = client.get(f"/v1/studies/{study.id}/next").json()["group"]
    return {
        "study_id": str(study.id),
        "study_image_id": group["images"][0]["id"],
        "webhook_id": webhook["id"],
        "delivery_id": delivery["id"],
        "concept_id": concept["id"],
        "job_id": job_id,
        "image_id": str(image_id),
        "version": "1",
        "model": "concept:my mug",
        "position": "1",
        "step": "25",
        "key_id": key["id"],
    }


def test_every_route_answers_404_for_what_belongs_to_another_owner(
    client: TestClient, alices: dict[str, str], new_key: Callable[..., str], subtests: pytest.Subtests
) -> None:
    bob = bearer(new_key("bob"))
    routes = [
        (method, path)
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method in methods
        if "{" in path
    ]
    assert len(routes) > 10
    for method, path in routes:
        with subtests.test(f"{method} {path}"):
            unknown = set(re.findall(r"{(\w+)}", path)) - alices.keys()
            assert not unknown, "tell the fixture `alices` of a thing that this parameter names"
            answer = client.request(method, path.format(**alices), json=_BODIES.get((method, path)), headers=bob)
            assert answer.status_code == 404, answer.text
    for path in ("/v1/concepts", "/v1/jobs", "/v1/webhooks", "/v1/studies"):
        with subtests.test(f"list {path}"):
            assert client.get(path, headers=bob).json()["items"] == []


def test_alice_herself_reaches_them(client: TestClient, alices: dict[str, str], subtests: pytest.Subtests) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        if "{" in path and "get" in methods and not path.endswith("/preview"):  # the job has no preview
            with subtests.test(path):
                assert client.get(path.format(**alices)).status_code == 200
