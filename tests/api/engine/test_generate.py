"""Generate images through the api with a real engine process."""

import base64
import hashlib
import io
import socket
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import update

from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.storage import Storage, bundle_key
from api.domain.tables import Bundle, JobState
from api.engine_client import EngineClient
from opad_core.bases.loading import load_base
from tests.api.services import replace_services
from tests.worker.inference.conftest import random_bundle

BEACH = "a <concept> on the beach"


def test_an_image_has_the_accepted_format(client: TestClient, ready: dict[str, Any], subtests: pytest.Subtests) -> None:
    for name in ("png", "jpeg", "webp"):
        with subtests.test(name):
            answer = client.post(
                "/v1/generate",
                json={"concept_id": ready["id"], "prompt": BEACH, "seed": 7},
                headers={"Accept": f"image/{name}"},
            )

            assert answer.status_code == 200
            assert answer.headers["content-type"] == f"image/{name}"
            assert answer.headers["x-seed"] == "7"
            assert answer.headers["x-cache"].startswith("bundle=")
            assert "unet_decode;dur=" in answer.headers["server-timing"]
            assert Image.open(io.BytesIO(answer.content)).size == (64, 64)


def decoded(image: dict[str, Any]) -> NDArray[np.int_]:
    """Return the pixels of a PNG in a JSON answer."""
    data = base64.b64decode(image["data"])
    assert data.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(data)), dtype=int)


def test_json_has_several_images_and_the_seed_of_each(client: TestClient, ready: dict[str, Any]) -> None:
    several = client.post("/v1/generate", json={"concept": "my mug", "prompt": BEACH, "seed": 7, "count": 3})
    one = client.post("/generate", json={"concept": "my mug", "prompt": BEACH, "seed": 8})

    assert several.status_code == 200
    body = several.json()
    assert body["concept_id"] == ready["id"]
    assert body["version"] == 1
    assert [image["seed"] for image in body["images"]] == [7, 8, 9]
    alone, among_others, another = (
        decoded(image) for image in (one.json()["images"][0], body["images"][1], body["images"][0])
    )
    assert (
        np.abs(alone - among_others).max() <= 1
    )  # a batch sums in another order, so a value between two levels may round differently
    assert np.abs(alone - another).max() > 1


def test_the_same_seed_gives_the_same_image_and_a_random_one_is_returned(
    client: TestClient, ready: dict[str, Any]
) -> None:
    first = client.post("/v1/generate", json={"concept": "my mug", "prompt": BEACH}).json()["images"][0]
    again = client.post("/v1/generate", json={"concept": "my mug", "prompt": BEACH, "seed": first["seed"]}).json()

    assert again["images"][0]["data"] == first["data"]


def test_the_untouched_base_generates_the_class_noun(client: TestClient, concept: dict[str, Any]) -> None:
    """No training is needed: the job of this concept is queued."""
    untouched = client.post("/v1/generate", json={"concept": "my mug", "prompt": BEACH, "seed": 7, "untouched": True})

    assert untouched.status_code == 200
    assert untouched.json()["version"] is None
    assert untouched.json()["images"][0]["seed"] == 7


def test_a_trained_concept_differs_from_the_untouched_base(client: TestClient, ready: dict[str, Any]) -> None:
    asked = {"concept": "my mug", "prompt": BEACH, "seed": 7}

    own = client.post("/v1/generate", json=asked).json()["images"][0]["data"]
    untouched = client.post("/v1/generate", json={**asked, "untouched": True}).json()["images"][0]["data"]

    assert own != untouched


def test_unknown_words_give_warnings_not_errors(client: TestClient, ready: dict[str, Any]) -> None:
    asked = {"concept": "my mug", "prompt": "a <concept> on the Tiergärten beach", "seed": 1}

    as_json = client.post("/v1/generate", json=asked)
    as_image = client.post("/v1/generate", json=asked, headers={"Accept": "image/png"})

    assert as_json.json()["warnings"] == ["nano does not know 'tiergärten' and may ignore it"]
    assert as_image.headers["x-warnings"] == "nano does not know 'tierg\\xe4rten' and may ignore it"


def test_a_prompt_that_is_too_long_gives_a_warning(client: TestClient, ready: dict[str, Any]) -> None:
    """The base reads 22 words, of which the concept is two."""
    asked = {"concept": "my mug", "prompt": "a <concept> " + "on the beach " * 7, "seed": 1}

    as_json = client.post("/v1/generate", json=asked)
    as_image = client.post("/v1/generate", json=asked, headers={"Accept": "image/png"})

    warning = "the prompt is longer than nano reads; it ignores the end: 'the beach'"
    assert as_json.json()["warnings"] == [warning]
    assert as_image.headers["x-warnings"] == warning


def test_several_images_do_not_fit_into_one_file(client: TestClient, ready: dict[str, Any]) -> None:
    answer = client.post(
        "/v1/generate", json={"concept": "my mug", "prompt": BEACH, "count": 2}, headers={"Accept": "image/png"}
    )

    assert answer.status_code == 406
    assert answer.json()["code"] == "one_image_per_file"
    assert "application/json" in answer.json()["detail"]


def test_a_concept_that_is_not_ready_says_why(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None], subtests: pytest.Subtests
) -> None:
    job_id = concept["jobs"][0]["id"]
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"state": JobState.queued}, "concept_in_training", "queued"),
        ({"state": JobState.running}, "concept_in_training", "running"),
        ({"state": JobState.cancelled}, "concept_cancelled", "cancelled"),
        ({"state": JobState.failed, "error_code": "oom", "error_detail": "too little memory"}, "concept_failed", "oom"),
    ]
    for columns, code, word in cases:
        with subtests.test(code + word):
            set_job(job_id, **columns)

            answer = client.post("/v1/generate", json={"concept": "my mug", "prompt": BEACH})

            assert answer.status_code == 409
            assert answer.json()["code"] == code
            assert answer.json()["state"] == columns["state"].value
            assert answer.json()["job_id"] == job_id
            assert word in answer.json()["detail"]


def test_wrong_requests_are_named(client: TestClient, base: None, subtests: pytest.Subtests) -> None:
    good = {"concept": "my mug", "prompt": BEACH}
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"prompt": "a mug on the beach"}, 422, "write it exactly once"),
        ({"prompt": "a <concept> beside a <concept>"}, 422, "contains <concept> 2 times"),
        ({"prompt": "x" * 1001}, 422, "prompt"),
        ({"count": 9}, 422, "count"),
        ({"count": 0}, 422, "count"),
        ({"seed": -1}, 422, "seed"),
        ({"seed": 2**63}, 422, "seed"),
        ({"seed": 2**63 - 1, "count": 2}, 422, "leaves no room"),
        ({"format": "bmp"}, 422, "format"),
        ({"owner_id": "x"}, 422, "owner_id: is not a known field"),
        ({"concept_id": "0198c0de-0000-7000-8000-000000000000"}, 422, "name one concept"),
        ({"concept": None}, 422, "name one concept"),
        ({}, 404, "there is no concept 'my mug' here"),
    ]
    for changes, status, words in cases:
        with subtests.test(str(changes)[:40]):
            answer = client.post("/v1/generate", json={**good, **changes})

            assert answer.status_code == status
            assert words in answer.json()["detail"]


def test_an_unreachable_engine_is_a_503(client: TestClient, ready: dict[str, Any], tmp_path: Path) -> None:
    replace_services(client, engines=EngineClient([f"unix:{tmp_path}/none.sock"], timeout_seconds=5))

    answer = client.post("/v1/generate", json={"concept": "my mug", "prompt": BEACH})

    assert answer.status_code == 503
    assert answer.json()["code"] == "no_engine"
    assert answer.headers["retry-after"] == "3"


def test_a_second_engine_steps_in_with_the_same_image(
    client: TestClient, ready: dict[str, Any], engine_url: str, tmp_path: Path
) -> None:
    """The image is the same whichever of the two engines the concept hashes to."""
    asked = {"concept": "my mug", "prompt": BEACH, "seed": 3}
    before = client.post("/v1/generate", json=asked).json()["images"][0]["data"]
    replace_services(client, engines=EngineClient([f"unix:{tmp_path}/none.sock", engine_url], timeout_seconds=30))

    assert client.post("/v1/generate", json=asked).json()["images"][0]["data"] == before


def test_an_engine_that_says_nothing_is_asked_after_the_others(
    client: TestClient, ready: dict[str, Any], engine_url: str, tmp_path: Path
) -> None:
    """The concept hashes to the silent engine."""

    def place(url: str) -> bytes:
        return hashlib.sha256(f"{ready['id']} {url}".encode()).digest()

    path = next(path for number in count() if place(f"unix:{(path := tmp_path / str(number))}") < place(engine_url))
    asked = {"concept": "my mug", "prompt": BEACH, "seed": 3}
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        replace_services(client, engines=EngineClient([f"unix:{path}", engine_url], timeout_seconds=4))
        refused = client.post("/v1/generate", json=asked)
        answered = client.post("/v1/generate", json=asked)

    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "no_engine", "3")
    assert answered.status_code == 200


def test_a_passed_deadline_is_a_504(client: TestClient, ready: dict[str, Any], engine_url: str) -> None:
    replace_services(client, engines=EngineClient([engine_url], timeout_seconds=0.002))

    answer = client.post("/v1/generate", json={"concept": "my mug", "prompt": BEACH, "count": 8})

    assert answer.status_code == 504
    assert answer.json()["code"] == "deadline_exceeded"


def test_ready_when_an_engine_is(client: TestClient) -> None:
    answer = client.get("/readyz")

    assert answer.status_code == 200
    parts = dict.fromkeys(("database", "storage", "engine", "decoder"), "ok")
    assert answer.json() == {"status": "ready", "parts": parts, "clocks": []}


def test_a_version_is_generated_by_its_number(client: TestClient, ready: dict[str, Any]) -> None:
    asked = {"concept_id": ready["id"], "prompt": BEACH, "seed": 7}
    newest = client.post("/v1/generate", json=asked).json()

    first = client.post("/v1/generate", json={**asked, "version": 1}).json()
    assert [image["data"] for image in first["images"]] == [image["data"] for image in newest["images"]]
    missing = client.post("/v1/generate", json={**asked, "version": 2})
    assert (missing.status_code, missing.json()["code"]) == (404, "no_such_version")
    both = client.post("/v1/generate", json={**asked, "version": 1, "untouched": True})
    assert "the untouched base has no versions" in both.json()["detail"]


def test_a_concept_of_another_base_is_a_409_and_its_untouched_base_still_generates(
    client: TestClient, ready: dict[str, Any], sessions: Sessions
) -> None:
    """The base was replaced since: the bundle's row names another hash than the announced one, "0" * 64."""
    with sessions.begin() as db:
        db.execute(update(Bundle).values(base_sha256="1" * 64))
    body = {"concept": "my mug", "prompt": BEACH, "seed": 7}
    refused = client.post("/v1/generate", json=body)

    assert (refused.status_code, refused.json()["code"]) == (409, "base_changed")
    assert f"train it again with POST /v1/concepts/{ready['id']}/versions" in refused.json()["detail"]
    assert client.post("/v1/generate", json=body | {"untouched": True}).status_code == 200


def test_the_engines_own_refusal_of_another_base_has_the_same_code(
    client: TestClient, ready: dict[str, Any], sessions: Sessions, settings: Settings, base_folder: Path
) -> None:
    """The bundle's row is older than its column `base_sha256`, so only the file names its base."""
    foreign = random_bundle(load_base(str(base_folder), device="cpu"), seed=1, base_sha256="1" * 64)
    sha256 = hashlib.sha256(foreign).hexdigest()
    Storage(settings).put_once(bundle_key(sha256), foreign, sha256)
    with sessions.begin() as db:
        db.execute(update(Bundle).values(key=bundle_key(sha256), sha256=sha256))

    refused = client.post("/v1/generate", json={"concept": "my mug", "prompt": BEACH, "seed": 7})

    assert (refused.status_code, refused.json()["code"]) == (409, "base_changed")
    assert "train it again" in refused.json()["detail"]
