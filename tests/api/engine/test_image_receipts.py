"""An image that was not stored is stored afterwards by its receipt, byte for byte."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.image_receipts import VALID_SECONDS, ReceiptSigner
from tests.api.services import replace_services

ASKED = {"concept": "my mug", "prompt": "a <concept> on the beach \U0001f3d6", "seed": 7, "format": "webp"}


@pytest.fixture
def shown(client: TestClient, ready: dict[str, Any]) -> dict[str, Any]:
    """The second of two images that a client has seen."""
    images: list[dict[str, Any]] = client.post("/v1/generate", json=ASKED | {"count": 2}).json()["images"]
    return images[1]


def keep(client: TestClient, image: dict[str, Any], **changes: Any) -> Any:
    return client.post("/v1/images", json={"receipt": image["receipt"], "data": image["data"]} | changes)


def test_what_is_kept_is_what_was_seen(client: TestClient, shown: dict[str, Any], ready: dict[str, Any]) -> None:
    answer = keep(client, shown)

    assert answer.status_code == 201, answer.text
    kept = answer.json()
    assert client.get(f"/v1/images/{kept['id']}/file").content == base64.b64decode(shown["data"])
    assert (kept["concept_id"], kept["version"]) == (ready["id"], 1)
    settings = kept["settings"]
    assert (settings["prompt"], settings["seed"], settings["format"]) == (ASKED["prompt"], 8, "webp")


def test_an_image_is_kept_once(client: TestClient, shown: dict[str, Any]) -> None:
    first, second = keep(client, shown).json(), keep(client, shown).json()

    assert first["id"] == second["id"]
    assert [image["id"] for image in client.get("/v1/images").json()["items"]] == [first["id"]]


def test_an_erased_image_can_be_kept_again(client: TestClient, shown: dict[str, Any]) -> None:
    kept = keep(client, shown).json()
    client.delete(f"/v1/images/{kept['id']}")

    assert keep(client, shown).json()["id"] == kept["id"]


def test_a_stored_image_has_no_receipt(client: TestClient, ready: dict[str, Any]) -> None:
    [image] = client.post("/v1/generate", json=ASKED | {"store": True}).json()["images"]
    assert image["receipt"] is None


def test_only_the_file_of_the_receipt_is_kept(client: TestClient, shown: dict[str, Any]) -> None:
    other = base64.b64encode(b"not generated here").decode()
    forged = base64.urlsafe_b64encode(bytes(32) + base64.urlsafe_b64decode(shown["receipt"])[32:]).decode()

    for changes, field in (({"data": other}, "data"), ({"receipt": forged}, "receipt"), ({"receipt": "x"}, "receipt")):
        answer = keep(client, shown, **changes)
        assert (answer.status_code, answer.json()["code"]) == (422, "receipt_refused")
        assert answer.json()["errors"][0]["field"] == field
    assert client.get("/v1/images").json()["items"] == []


def test_a_receipt_is_worth_nothing_to_others_or_to_readers(
    client: TestClient, shown: dict[str, Any], new_key: Callable[..., str]
) -> None:
    body = {"receipt": shown["receipt"], "data": shown["data"]}
    for status, key in ((422, new_key("bob")), (403, new_key("alice", scopes=("read",)))):
        answer = client.post("/v1/images", json=body, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == status


def test_a_receipt_that_is_over_stores_nothing(client: TestClient, ready: dict[str, Any]) -> None:
    assert VALID_SECONDS == 24 * 60 * 60
    replace_services(client, receipts=ReceiptSigner("secret", valid_seconds=-1))
    [image] = client.post("/v1/generate", json=ASKED).json()["images"]

    assert "older than a day" in keep(client, image).json()["detail"]


def test_nothing_of_an_erased_concept_is_kept(
    client: TestClient, shown: dict[str, Any], ready: dict[str, Any], stored: Callable[[], dict[str, int]]
) -> None:
    client.delete(f"/v1/concepts/{ready['id']}")

    answer = keep(client, shown)

    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_concept")
    assert stored()["objects"] == 0
