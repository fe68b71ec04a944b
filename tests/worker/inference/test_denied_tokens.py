import pytest
from starlette.testclient import TestClient

from api.domain.denied_words import DeniedWords
from worker.inference.app import create_app
from worker.inference.denied_tokens import DeniedTokens, PromptDenied


@pytest.fixture
def denied(base) -> DeniedTokens:
    return DeniedTokens(DeniedWords(["Beach", "at night", "gore"]), base.text)


REFUSED = [
    "a dog on the beach",
    "BEACH",
    "beach1",
    "1beach",
    "beach_",
    "beach²",
    "beach™",
    "beach's",
    "beach\u0903",
    "beach\u200bes",
    "a dog at   night",
    "some gore",  # several tokens, because the base does not know the word
]


@pytest.mark.parametrize("prompt", REFUSED)
def test_the_tokens_of_a_word_are_found(denied, prompt) -> None:
    with pytest.raises(PromptDenied):
        denied.refuse(prompt)


@pytest.mark.parametrize("prompt", ["a dog in the snow", "beaches", "at the night", "xgore", "gores", ""])
def test_other_tokens_are_not(denied, prompt) -> None:
    denied.refuse(prompt)


def test_an_empty_list_refuses_nothing(base) -> None:
    DeniedTokens(DeniedWords([]), base.text).refuse("a dog on the beach")


def test_the_engine_refuses_with_a_code_of_its_own(engine_settings, stored, tmp_path) -> None:
    """The word may be made of the prompt and the concept's class noun."""
    words = tmp_path / "words.txt"
    words.write_text("beach\nred dog\n")
    app = create_app(engine_settings.model_copy(update={"denied_words": words}), bind="test")
    body = {"bundle": stored[0].name, "seeds": [1], "format": "png", "deadline_ms": 60_000}
    with TestClient(app) as client:
        for prompt in ("a <concept> on the beach_", "a red <concept>"):
            answer = client.post("/generate", json={**body, "prompt": prompt})
            assert (answer.status_code, answer.json()["code"]) == (422, "denied_tokens")
            assert "beach" not in answer.text
        assert client.post("/generate", json={**body, "prompt": "a <concept>"}).status_code == 200
