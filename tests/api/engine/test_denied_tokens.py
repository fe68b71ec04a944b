"""The engine refuses a prompt by its tokens, and the api answers as it does for its own word list."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.domain.denied_words import DeniedWords
from api.domain.settings import Settings
from tests.api.services import replace_services
from tests.engine_process import engine_process


@pytest.fixture
def api_settings(settings: Settings, base_folder: Path, tmp_path: Path) -> Iterator[Settings]:
    """Settings of an api and an engine with the same list."""
    words, address = tmp_path / "words.txt", tmp_path / "engine.sock"
    words.write_text("beach\n")
    ours = settings.model_copy(update={"denied_words": words, "engine_urls": [f"unix:{address}"]})
    with engine_process(ours.model_copy(update={"base": str(base_folder)}), address):
        yield ours.model_copy(update={"generate_timeout_seconds": 60})


@pytest.fixture
def base(api_settings: Settings) -> None:
    """The engine has announced its base in this test's database."""


def test_the_engines_refusal_is_that_of_the_word_list(client: TestClient, ready: dict[str, Any]) -> None:
    asked = {"concept": "my mug", "prompt": "a <concept> on the beach1"}
    from_the_list = client.post("/v1/generate", json=asked)
    replace_services(client, denied_words=DeniedWords([]))
    from_the_engine = client.post("/v1/generate", json=asked)
    openai = client.post("/v1/images/generations", json={"model": "concept:my mug", "prompt": asked["prompt"]})

    assert from_the_engine.status_code == from_the_list.status_code == 422
    bodies = [answer.json() | {"request_id": ""} for answer in (from_the_list, from_the_engine)]
    assert bodies[0] == bodies[1]
    assert bodies[0]["code"] == openai.json()["error"]["code"] == "prompt_refused"
    actions = [row["action"] for row in client.get("/v1/audit").json()["items"] if row["action"] == "prompt.refuse"]
    assert len(actions) == 3
    assert client.post("/v1/generate", json={**asked, "prompt": "a <concept> on the grass"}).status_code == 200
