"""Links to the files of a trained version, followed without a key."""

import hashlib
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete

from api.domain import jobs
from api.domain.database import Sessions
from api.domain.job_reports import StoredExport
from api.domain.settings import Settings
from api.domain.storage import Storage, bundle_key, export_key
from api.domain.tables import Export, JobState
from tests.api.services import replace_services

ANY_LAYOUT = ("opad", "diffusers", "kohya", "textual_inversion", "teacher")


@pytest.fixture
def files(concept: dict[str, Any], sessions: Sessions, settings: Settings) -> dict[str, bytes]:
    """The files that a trainer stored for the concept's first version, by layout."""
    contents = {layout: f"{layout} of {concept['id']}".encode() for layout in ANY_LAYOUT}
    storage, exports, job_id = Storage(settings), [], UUID(concept["jobs"][0]["id"])
    for layout, data in contents.items():
        sha256 = hashlib.sha256(data).hexdigest()
        key = bundle_key(sha256) if layout == "opad" else export_key(sha256)
        storage.put_once(key, data, sha256)
        error = None if layout in ("opad", "textual_inversion", "teacher") else 0.25
        exports.append(StoredExport(layout, key, sha256, len(data), error))
    bundle, *others = exports
    with sessions.begin() as db:
        (_, fence, _) = db.execute(jobs.claim("w", lease_seconds=60, job_id=job_id)).one()
        db.execute(
            jobs.finish(job_id, fence, key=bundle.key, sha256=bundle.sha256, size=bundle.size, exports=others)
        )  # fmt: skip
    return contents


def bundle_path(concept: dict[str, Any], layout: str | None = None, *, version: int = 1) -> str:
    return f"/v1/concepts/{concept['id']}/versions/{version}/bundle{f'?layout={layout}' if layout else ''}"


@pytest.mark.parametrize("layout", ANY_LAYOUT)
def test_a_link_returns_the_file_without_a_key(
    client: TestClient, concept: dict[str, Any], files: dict[str, bytes], layout: str
) -> None:
    download = client.get(bundle_path(concept, layout)).json()

    file = httpx.get(download["url"], trust_env=False)

    assert file.content == files[layout]
    assert hashlib.sha256(file.content).hexdigest() == download["sha256"]
    assert len(file.content) == download["size"]
    assert download["filename"] == {"opad": "my-mug-v1.safetensors"}.get(layout, f"my-mug-v1-{layout}.safetensors")
    assert f'filename="{download["filename"]}"' in file.headers["content-disposition"]
    assert download["trigger"] == "<concept> mug"
    assert download["relative_error"] == (0.25 if layout in ("diffusers", "kohya") else None)


def test_without_a_layout_it_is_the_bundle(
    client: TestClient, concept: dict[str, Any], files: dict[str, bytes]
) -> None:
    assert client.get(bundle_path(concept)).json()["layout"] == "opad"


def test_a_changed_link_returns_nothing(client: TestClient, concept: dict[str, Any], files: dict[str, bytes]) -> None:
    url = client.get(bundle_path(concept, "kohya")).json()["url"]
    assert httpx.get(url.replace("X-Amz-Expires=900", "X-Amz-Expires=9000"), trust_env=False).status_code == 403


def test_links_carry_and_are_signed_for_the_address_that_clients_reach(
    client: TestClient, concept: dict[str, Any], files: dict[str, bytes], settings: Settings
) -> None:
    public = (settings.s3_endpoint or "").replace("127.0.0.1", "localhost")
    replace_services(client, storage=Storage(settings.model_copy(update={"s3_public_endpoint": public})))

    url = client.get(bundle_path(concept)).json()["url"]

    assert url.startswith(f"{public}/")
    assert httpx.get(url, trust_env=False).content == files["opad"]


@pytest.mark.parametrize(("state", "code"), [("queued", "concept_in_training"), ("failed", "concept_failed")])
def test_an_untrained_version_says_its_jobs_state(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None], state: str, code: str
) -> None:
    set_job(concept["jobs"][0]["id"], state=JobState(state), error_code="oom", error_detail="no memory")

    answer = client.get(bundle_path(concept))

    assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, code, state)


def test_a_version_without_exports_says_how_to_get_them(
    client: TestClient, concept: dict[str, Any], files: dict[str, bytes], sessions: Sessions
) -> None:
    with sessions.begin() as db:
        db.execute(delete(Export))

    answer = client.get(bundle_path(concept, "diffusers"))

    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_export")
    assert f"POST /v1/concepts/{concept['id']}/versions" in answer.json()["detail"]
    assert "with `keep_teacher`" in client.get(bundle_path(concept, "teacher")).json()["detail"]
    assert client.get(bundle_path(concept)).status_code == 200


def test_a_file_that_the_store_lost_gets_no_link(
    client: TestClient, concept: dict[str, Any], files: dict[str, bytes], settings: Settings
) -> None:
    Storage(settings).delete(export_key(hashlib.sha256(files["kohya"]).hexdigest()))

    answer = client.get(bundle_path(concept, "kohya"))

    assert (answer.status_code, answer.json()["code"]) == (500, "stored_file_damaged")


def test_what_is_not_there_or_anothers_is_a_404(
    client: TestClient, concept: dict[str, Any], files: dict[str, bytes], new_key: Callable[..., str]
) -> None:
    assert client.get(bundle_path(concept, version=2)).json()["code"] == "no_such_version"
    assert client.get(bundle_path(concept, "onnx")).status_code == 422
    bob = {"Authorization": f"Bearer {new_key('bob')}"}
    assert client.get(bundle_path(concept), headers=bob).status_code == 404


def test_an_erased_concept_takes_its_exports_along(
    client: TestClient, concept: dict[str, Any], files: dict[str, bytes], stored: Callable[[], dict[str, int]]
) -> None:
    assert stored()["objects"] == 8, "three photos, a bundle, three exports, the teacher"
    url = client.get(bundle_path(concept, "kohya")).json()["url"]

    receipt = client.delete(f"/v1/concepts/{concept['id']}").json()

    exports = [hashlib.sha256(files[layout]).hexdigest() for layout in ANY_LAYOUT[1:]]
    assert sorted(receipt["exports"]) == sorted(exports)
    assert stored()["objects"] == 0
    assert httpx.get(url, trust_env=False).status_code == 404
