"""Names, prompts, numbers and JSON; control characters in names are in api/test_concepts.py."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.domain.settings import Settings
from tests.api.reference_images import reference
from tests.security.conftest import NOTHING

PROMPT = "a <concept> on the beach"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def api_settings(settings: Settings) -> Settings:
    return settings


@pytest.mark.parametrize("name", ["x" * 10_000, "a\x00b", "a\nb", "\u200b", " \t ", "\u2028", "\ud800"[:0]])
def test_a_name_that_cannot_be_shown_is_refused(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]], name: str
) -> None:
    answer = upload(reference(1), reference(2), reference(3), name=name)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["name"]
    assert stored() == NOTHING


REFUSED: dict[str, tuple[str, str]] = {
    "a prompt of 100 kB": ('"prompt": "<concept> %s"' % ("x" * 100_000), "prompt"),
    "no concept in the prompt": ('"prompt": "a mug"', "prompt"),
    "NaN": ('"prompt": "<concept>", "seed": NaN', "seed"),
    "infinity": ('"prompt": "<concept>", "seed": 1e400', "seed"),
    "a negative seed": ('"prompt": "<concept>", "seed": -1', "seed"),
    "a seed past the end": ('"prompt": "<concept>", "seed": 9223372036854775808', "seed"),
    "a seed of 5,000 digits": ('"prompt": "<concept>", "seed": %s' % ("9" * 4000), "seed"),
    "a negative count": ('"prompt": "<concept>", "count": -1', "count"),
    "an image that is true": ('"prompt": "<concept>", "count": true', "count"),
    "a seed with an underscore": ('"prompt": "<concept>", "seed": "1_0"', "seed"),
    "a version that no column holds": ('"prompt": "<concept>", "version": 1099511627776', "version"),
    "half an image": ('"prompt": "<concept>", "count": 1.5', "count"),
    "a billion images": ('"prompt": "<concept>", "count": 1000000000', "count"),
    "an owner of one's choice": ('"prompt": "<concept>", "owner_id": "x"', "owner_id"),
    "a tenant of one's choice": ('"prompt": "<concept>", "tenant_id": "x"', "tenant_id"),
    "a prompt that is a list": ('"prompt": ["<concept>"]', "prompt"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_by_field(client: TestClient, name: str) -> None:
    members, field = REFUSED[name]

    answer = client.post("/v1/generate", content=f'{{"concept": "my mug", {members}}}', headers=JSON)

    assert answer.status_code == 422, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert len(answer.content) < 10_000, "an answer does not repeat what was sent"


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "10,000 levels": (b"[" * 10_000 + b"]" * 10_000, "bad_request"),
    "no UTF-8": (b'{"prompt": "\xff"}', "bad_request"),
    "half a body": (b'{"prompt": ', "malformed_json"),
    "a key twice": (b'{"prompt": "<concept>", "concept": "a", "concept": "b"}', "repeated_key"),
    "a number of 5,000 digits": (b'{"prompt": "<concept>", "concept": "a", "seed": %s}' % (b"9" * 5000), "bad_request"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_json_that_cannot_be_read_in_one_way_is_a_400(client: TestClient, name: str) -> None:
    body, code = UNREADABLE[name]
    for path in ("/v1/generate", "/generate"):
        answer = client.post(path, content=body, headers=JSON)

        assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_a_lone_surrogate_is_refused_and_breaks_nothing(client: TestClient) -> None:
    body = b'{"concept": "\\ud800", "prompt": "<concept>"}'
    answer = client.post("/v1/generate", content=body, headers=JSON)
    assert answer.status_code in (404, 422)


def test_a_nul_in_a_text_is_refused_and_breaks_nothing(client: TestClient) -> None:
    """PostgreSQL's text has no NUL."""
    for body in ({"concept": "a\x00b", "prompt": "<concept>"}, {"concept": "my mug", "prompt": "<concept> \x00"}):
        assert client.post("/v1/generate", json=body).status_code in (404, 422)
    assert client.get("/v1/models/concept:a%00b").status_code in (404, 422)
    assert client.get("/v1/audit", params={"action": "a\x00"}).status_code in (200, 422)
    key = client.post("/v1/keys", json={"name": "a\x00b", "scopes": ["read"]})
    assert key.status_code == 422
