"""Stored images, from a real engine to a real store."""

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import httpx
from fastapi.testclient import TestClient

from api.domain.engine_answer import Generated
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.domain.tables import JobState
from api.engine_client import EngineClient
from tests.api.reference_images import reference
from tests.api.services import replace_services

ASKED = {"concept": "my mug", "prompt": "a <concept> on the beach", "seed": 7, "store": True}


def stored_images(client: TestClient, **changes: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/generate", json=ASKED | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()["images"]


def test_a_stored_image_is_the_generated_one_with_its_settings(client: TestClient, ready: dict[str, Any]) -> None:
    [generated] = stored_images(client, format="webp")

    image = client.get(f"/v1/images/{generated['id']}").json()

    file = httpx.get(image["url"], trust_env=False)
    assert file.content == base64.b64decode(generated["data"])
    assert f'filename="{generated["id"]}.webp"' in file.headers["content-disposition"]
    assert (image["sha256"], image["size"]) == (hashlib.sha256(file.content).hexdigest(), len(file.content))
    assert (image["concept_id"], image["concept_name"], image["version"]) == (ready["id"], "my mug", 1)
    again = client.post("/v1/generate", json=image["settings"]).json()["images"][0]
    assert (again["data"], again["id"]) == (generated["data"], None), "generated again, and not stored again"


def test_an_image_answer_names_the_stored_image(client: TestClient, ready: dict[str, Any]) -> None:
    answer = client.post("/v1/generate", json=ASKED, headers={"Accept": "image/jpeg"})

    image = client.get(f"/v1/images/{answer.headers['x-image-id']}").json()

    assert httpx.get(image["url"], trust_env=False).content == answer.content
    assert image["settings"]["format"] == "jpeg"


def test_an_image_is_not_stored_unasked(
    client: TestClient, ready: dict[str, Any], stored: Callable[[], dict[str, int]]
) -> None:
    before = stored()["objects"]

    assert stored_images(client, store=False)[0]["id"] is None

    assert stored()["objects"] == before
    assert client.get("/v1/images").json() == {"items": [], "next": None}


def test_an_image_of_the_untouched_base_is_stored_as_such(client: TestClient, concept: dict[str, Any]) -> None:
    [generated] = stored_images(client, untouched=True)
    image = client.get(f"/v1/images/{generated['id']}").json()
    assert (image["version"], image["settings"]["untouched"]) == (None, True)


def test_stored_images_are_listed_by_concept_and_page(
    client: TestClient, ready: dict[str, Any], upload: Callable[..., Any]
) -> None:
    upload(reference(1), reference(2), reference(3), name="other")
    ids = [image["id"] for image in stored_images(client, count=3)]
    [other] = stored_images(client, concept="other", untouched=True)

    first = client.get("/v1/images?limit=2").json()
    rest = client.get(f"/v1/images?limit=2&cursor={first['next']}").json()
    of_one = client.get(f"/v1/images?concept_id={ready['id']}").json()

    assert [image["id"] for image in first["items"]] == [other["id"], ids[2]]
    assert [image["id"] for image in rest["items"]] == [ids[1], ids[0]]
    assert rest["next"] is None
    assert [image["settings"]["seed"] for image in of_one["items"]] == [9, 8, 7]


def test_a_deleted_image_is_gone(
    client: TestClient, ready: dict[str, Any], stored: Callable[[], dict[str, int]]
) -> None:
    before = stored()["objects"]
    [generated] = stored_images(client)
    url = client.get(f"/v1/images/{generated['id']}").json()["url"]

    assert client.delete(f"/v1/images/{generated['id']}").status_code == 204

    assert stored()["objects"] == before
    assert httpx.get(url, trust_env=False).status_code == 404
    assert client.get(f"/v1/images/{generated['id']}").json()["code"] == "no_such_image"
    assert client.delete(f"/v1/images/{generated['id']}").status_code == 404


def test_nobody_sees_or_deletes_what_is_anothers(
    client: TestClient, ready: dict[str, Any], new_key: Callable[..., str]
) -> None:
    path = f"/v1/images/{stored_images(client)[0]['id']}"
    bob = {"Authorization": f"Bearer {new_key('bob')}"}
    reader = {"Authorization": f"Bearer {new_key('alice', scopes=('read',))}"}

    assert client.get("/v1/images", headers=bob).json()["items"] == []
    assert client.get(path, headers=bob).status_code == 404
    assert client.delete(path, headers=bob).status_code == 404
    assert client.delete(path, headers=reader).status_code == 403
    assert client.get(path, headers=reader).status_code == 200


def test_an_erased_concept_takes_its_images_along(
    client: TestClient, ready: dict[str, Any], stored: Callable[[], dict[str, int]], settings: Settings
) -> None:
    ids = [image["id"] for image in stored_images(client, count=2)]
    lost = b"of a request that was killed before its commit"
    Storage(settings).put_once(f"images/{ready['id']}/lost.png", lost, hashlib.sha256(lost).hexdigest())

    receipt = client.delete(f"/v1/concepts/{ready['id']}").json()

    assert receipt["images"] == ids
    assert stored()["objects"] == 0
    assert client.get("/v1/images").json()["items"] == []


def test_a_concept_erased_during_a_request_stores_nothing(
    client: TestClient,
    concept: dict[str, Any],
    set_job: Callable[..., None],
    stored: Callable[[], dict[str, int]],
    engine_url: str,
) -> None:
    """The concept is erased when the engine's answer arrives, before the images are stored."""
    set_job(concept["jobs"][0]["id"], state=JobState.cancelled)

    class ErasedMeanwhile(EngineClient):
        async def generate(self, *arguments: Any, **options: Any) -> Generated:
            generated = await super().generate(*arguments, **options)
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(client.app), base_url="http://localhost", headers=client.headers
            ) as other:
                assert (await other.delete(f"/v1/concepts/{concept['id']}")).status_code == 200
            return generated

    replace_services(client, engines=ErasedMeanwhile([engine_url], timeout_seconds=60))

    answer = client.post("/v1/generate", json=ASKED | {"untouched": True})

    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_concept")
    assert stored()["objects"] == 0
