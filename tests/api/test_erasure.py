import hashlib
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from api.domain import jobs
from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.storage import Storage, bundle_key, checkpoint_key, job_image_key, preview_key
from api.domain.tables import Attempt, Bundle, Checkpoint, IdempotencyKey, JobState
from tests.api.reference_images import reference


@pytest.fixture
def learned(concept: dict[str, Any], sessions: Sessions, settings: Settings) -> dict[str, Any]:
    """A concept with everything that a training stores: attempt, checkpoint, preview, bundle."""
    job_id, storage = UUID(concept["jobs"][0]["id"]), Storage(settings)
    bundle, other = b"bundle of " + job_id.bytes, b"something"
    sha256 = hashlib.sha256(bundle).hexdigest()
    storage.put_once(bundle_key(sha256), bundle, sha256)
    for key in (
        checkpoint_key(job_id, 1, 50, "0" * 64),
        preview_key(job_id, 25),
        job_image_key(job_id, "1" * 64),
    ):
        storage.put_once(key, other, hashlib.sha256(other).hexdigest())
    with sessions.begin() as db:
        (_, fence, _) = db.execute(jobs.claim("w", lease_seconds=60, job_id=job_id)).one()
        db.execute(jobs.finish(job_id, fence, key=bundle_key(sha256), sha256=sha256, size=len(bundle)))
        key = checkpoint_key(job_id, 1, 50, "0" * 64)
        db.add(Checkpoint(job_id=job_id, fence=1, step=50, key=key, sha256="0" * 64, size=9))
    return concept | {"bundle_sha256": sha256, "job_id": job_id}


def test_an_erased_concept_leaves_nothing(
    client: TestClient, learned: dict[str, Any], stored: Callable[[], dict[str, int]], sessions: Sessions
) -> None:
    assert stored()["objects"] == 7

    receipt = client.delete(f"/v1/concepts/{learned['id']}").json()

    assert receipt["bundles"] == [learned["bundle_sha256"]]
    assert len(receipt["references"]) == 3
    assert receipt["jobs"] == [str(learned["job_id"])]
    assert (receipt["checkpoints"], receipt["objects"], receipt["shared"]) == (1, 7, [])
    assert stored() == {"concept": 0, "job": 0, "reference": 0, "objects": 0}
    with sessions() as db:
        assert not any(db.scalar(select(func.count()).select_from(table)) for table in (Attempt, Bundle, Checkpoint))
    assert client.get(f"/v1/concepts/{learned['id']}").status_code == 404
    assert client.delete(f"/v1/concepts/{learned['id']}").status_code == 404


def test_photos_that_another_concept_has_too_stay_for_it(
    client: TestClient, upload: Callable[..., Any], learned: dict[str, Any]
) -> None:
    other = upload(reference(1), reference(2), reference(5), name="another").json()["concept"]

    receipt = client.delete(f"/v1/concepts/{learned['id']}").json()

    assert len(receipt["shared"]) == 2
    assert len(receipt["references"]) == 1
    assert [client.get(reference["url"]).status_code for reference in other["references"]] == [200] * 3


def test_a_concept_in_training_is_not_erased(
    client: TestClient, concept: dict[str, Any], stored: Callable[[], dict[str, int]]
) -> None:
    before = stored()
    answer = client.delete(f"/v1/concepts/{concept['id']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "concept_in_training")
    assert "cancel it" in answer.json()["detail"]
    assert stored() == before


def test_nobody_erases_what_is_anothers(
    client: TestClient, learned: dict[str, Any], new_key: Callable[..., str], stored: Callable[[], dict[str, int]]
) -> None:
    before = stored()
    bob = {"Authorization": f"Bearer {new_key('bob')}"}
    assert client.delete(f"/v1/concepts/{learned['id']}", headers=bob).status_code == 404
    reader = {"Authorization": f"Bearer {new_key('alice', scopes=('read',))}"}
    assert client.delete(f"/v1/concepts/{learned['id']}", headers=reader).status_code == 403
    assert stored() == before


def test_the_answer_kept_for_an_idempotency_key_goes_too(
    client: TestClient, upload: Callable[..., Any], set_job: Callable[..., None], sessions: Sessions
) -> None:
    body = upload(reference(1), reference(2), reference(3), headers={"Idempotency-Key": "once"}).json()
    set_job(body["job"]["id"], state=JobState.cancelled)
    assert client.delete(f"/v1/concepts/{body['concept']['id']}").status_code == 200
    with sessions() as db:
        assert db.scalar(select(func.count()).select_from(IdempotencyKey)) == 0
