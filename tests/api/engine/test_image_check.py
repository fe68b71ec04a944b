"""The image check of generated images. With a limit of 0 the real classifier finds each unfit."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.domain.settings import Settings
from tests.api.test_audit import actions


@pytest.fixture(params=["refuse", "flag"])
def policy(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def api_settings(settings: Settings, engine_url: str, policy: str) -> Settings:
    """Settings whose scorer accepts references and refuses generated images."""
    return settings.model_copy(
        update={
            "engine_urls": [engine_url],
            "generate_timeout_seconds": 60,
            "image_check": policy,
            "image_scorer": "tests.api.engine.test_image_check:_unfit_if_generated",
        }
    )


def _unfit_if_generated(file: bytes) -> float:
    """Return a score by the metadata, which says that an image was generated."""
    return 0.9 if b"trainedAlgorithmicMedia" in file else 0.1


def test_a_generated_image_meets_the_policy(
    client: TestClient, ready: dict[str, Any], policy: str, stored: Callable[[], dict[str, int]]
) -> None:
    before = stored()
    asked = {"concept": ready["name"], "prompt": "a <concept>", "seed": 7, "count": 2, "store": True}
    answer = client.post("/v1/generate", json=asked, headers={"Accept": "application/json"})
    file = client.post("/v1/generate", json=asked | {"count": 1, "store": False}, headers={"Accept": "image/png"})

    if policy == "refuse":
        assert (answer.status_code, answer.json()["code"]) == (422, "image_refused")
        assert answer.json()["seeds"] == [7, 8]
        assert "another seed" in answer.json()["detail"]
        assert stored() == before
        assert [action for action, _, _ in actions(client)][-2:] == ["image.refuse"] * 2
        return
    images = answer.json()["images"]
    assert [(image["check_score"], image["flagged"]) for image in images] == [(0.9, True)] * 2
    assert base64.b64decode(images[0]["data"]).startswith(b"\x89PNG")
    assert client.get("/v1/images").json()["items"][0]["check_score"] == 0.9
    assert (file.headers["x-flagged"], file.headers["x-check-score"]) == ("true", "0.9")
    assert actions(client, action="image.flag") == [("image.flag", ready["id"], "generated")] * 2
