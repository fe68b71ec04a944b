"""Denied words and the check of uploads. engine/test_image_check.py tests generated images."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.domain.settings import Settings
from api.image_check import ImageCheck
from tests.api.reference_images import reference
from tests.api.test_audit import actions

NOTHING = {"concept": 0, "job": 0, "reference": 0, "objects": 0}


@pytest.fixture
def careful(
    settings: Settings, tmp_path: Path, new_key: Callable[..., str], base: None
) -> Iterator[Callable[..., TestClient]]:
    """Start a service with other settings, with a client of alice."""
    opened: list[TestClient] = []

    def start(**changed: Any) -> TestClient:
        client = TestClient(create_app(settings.model_copy(update=changed)), base_url="http://localhost")
        client.headers["Authorization"] = f"Bearer {new_key()}"
        opened.append(client.__enter__())
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)


def post_photos(client: TestClient, **fields: str) -> Any:
    return client.post(
        "/v1/concepts",
        files=[("images", (f"{n}.jpg", reference(n))) for n in range(3)],
        data={"name": "my mug", "class_noun": "mug", "consent": "true", **fields},
    )


@pytest.fixture
def denied(tmp_path: Path) -> Path:
    path = tmp_path / "denied.txt"
    path.write_text("# not here\ngore\nrobot\n")
    return path


def test_a_denied_prompt_is_refused_in_words_that_do_not_repeat_it(
    careful: Callable[..., TestClient], denied: Path
) -> None:
    client = careful(denied_words=denied)
    for prompt in ("<concept> in g\u043er\u0435", "G 0 R E of <concept>"):
        answer = client.post("/v1/generate", json={"concept": "my mug", "prompt": prompt})

        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "prompt_refused"
        assert "use other words" in answer.json()["detail"]
        assert "gore" not in answer.text.lower()
    openai = client.post("/v1/images/generations", json={"model": "concept:my mug", "prompt": "gore and <concept>"})
    assert openai.json()["error"]["code"] == "prompt_refused"
    assert [action for action, _, _ in actions(client)] == ["prompt.refuse"] * 3


def test_a_denied_class_noun_is_not_trained(
    careful: Callable[..., TestClient], denied: Path, stored: Callable[[], dict[str, int]]
) -> None:
    answer = post_photos(careful(denied_words=denied), class_noun="robot")

    assert (answer.status_code, answer.json()["code"]) == (422, "class_noun_refused")
    assert stored() == NOTHING


def test_a_list_that_is_missing_stops_the_start(settings: Settings, tmp_path: Path) -> None:
    app = create_app(settings.model_copy(update={"denied_words": tmp_path / "none.txt"}))
    with pytest.raises(FileNotFoundError), TestClient(app):
        pass


def test_photos_over_the_limit_are_refused_by_name(
    careful: Callable[..., TestClient], stored: Callable[[], dict[str, int]]
) -> None:
    """With a limit of 0 the real classifier finds every image unfit."""
    client = careful(image_check="refuse", image_check_limit=0.0)

    answer = post_photos(client)

    assert (answer.status_code, answer.json()["code"]) == (422, "reference_refused")
    assert 'image 1 ("0.jpg"), image 2 ("1.jpg"), image 3 ("2.jpg")' in answer.json()["detail"]
    assert stored() == NOTHING
    assert [(action, outcome) for action, _, outcome in actions(client)] == [("image.refuse", "reference_refused")]


def test_flagged_photos_are_accepted_and_recorded(careful: Callable[..., TestClient]) -> None:
    client = careful(image_check="flag", image_check_limit=0.0)

    answer = post_photos(client)

    assert answer.status_code == 202
    scores = [reference["check_score"] for reference in answer.json()["concept"]["references"]]
    assert all(0 <= score <= 1 for score in scores)
    assert actions(client, action="image.flag") == [("image.flag", answer.json()["concept"]["id"], "reference")]


def test_harmless_photos_pass_the_real_check(careful: Callable[..., TestClient]) -> None:
    client = careful(image_check="refuse")

    answer = post_photos(client)

    assert answer.status_code == 202, answer.text
    assert all(0 <= reference["check_score"] < 0.8 for reference in answer.json()["concept"]["references"])
    assert actions(client, action="image.flag") == []


def test_without_a_check_there_is_no_score(upload: Callable[..., Any]) -> None:
    concept = upload(reference(1), reference(2), reference(3)).json()["concept"]
    assert [reference["check_score"] for reference in concept["references"]] == [None] * 3


def test_another_classifier_is_named_by_the_settings(careful: Callable[..., TestClient]) -> None:
    client = careful(image_check="flag", image_scorer="tests.api.test_care:_by_size")

    concept = post_photos(client).json()["concept"]

    assert [reference["check_score"] for reference in concept["references"]] == [0.25] * 3


def _by_size(file: bytes) -> float:
    return 0.25 if len(file) > 100 else 0.0


def test_a_classifier_that_is_not_there_is_named_with_the_remedy(settings: Settings) -> None:
    wrong = settings.model_copy(update={"image_check": "flag", "image_scorer": "nobody.has:this"})
    with pytest.raises(ValueError, match=r"OPAD_IMAGE_SCORER=nobody\.has:this cannot be loaded"):
        ImageCheck(wrong)
