"""OpenAI's own client against a real server and a real engine."""

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.api.reference_images import reference

MUG, BEACH = "concept:my mug", "a <concept> on the beach"


@pytest.fixture
def theirs(served: str, new_key: Callable[..., str], base: None) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served}/v1", api_key=new_key(), max_retries=0, timeout=60) as client:
        yield client


def test_it_generates_what_generate_does(theirs: openai.OpenAI, client: TestClient, ready: dict[str, Any]) -> None:
    answer = theirs.images.generate(model=MUG, prompt=BEACH, n=2, extra_body={"seed": 7})

    ours = client.post("/v1/generate", json={"concept": "my mug", "prompt": BEACH, "seed": 7, "count": 2}).json()
    assert [image.b64_json for image in answer.data] == [image["data"] for image in ours["images"]]
    assert client.get("/v1/images").json()["items"] == []


def test_formats_and_sizes_are_as_asked(theirs: openai.OpenAI, ready: dict[str, Any]) -> None:
    answer = theirs.images.generate(
        model=MUG, prompt=BEACH, size="64x64", output_format="webp", quality="high", user="u"
    )

    image = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert (image.format, image.size) == ("WEBP", (64, 64))


def test_urls_lead_to_stored_images(theirs: openai.OpenAI, client: TestClient, ready: dict[str, Any]) -> None:
    answer = theirs.images.generate(model=MUG, prompt=BEACH, n=2, response_format="url", extra_body={"seed": 7})

    generated = theirs.images.generate(model=MUG, prompt=BEACH, n=2, extra_body={"seed": 7})
    files = [httpx.get(image.url, trust_env=False).content for image in answer.data]
    assert files == [base64.b64decode(image.b64_json) for image in generated.data]
    assert [image["settings"]["seed"] for image in client.get("/v1/images").json()["items"]] == [8, 7]


def test_ready_concepts_are_models(theirs: openai.OpenAI, upload: Callable[..., Any], ready: dict[str, Any]) -> None:
    upload(reference(1), reference(2), reference(3), name="in training")

    [model] = theirs.models.list().data

    assert (model.id, model.object, model.owned_by) == (MUG, "model", "alice")
    assert theirs.models.retrieve(MUG) == model


def test_its_errors_carry_our_codes(theirs: openai.OpenAI, upload: Callable[..., Any], ready: dict[str, Any]) -> None:
    """No subtests: each replaces the captured streams, and the server's thread would write to a closed one."""
    upload(reference(1), reference(2), reference(3), name="in training")
    good = {"model": MUG, "prompt": BEACH}
    cases: list[tuple[dict[str, Any], type[openai.APIStatusError], str, str]] = [
        ({"model": "dall-e-3"}, openai.NotFoundError, "model_not_found", "GET /v1/models lists them"),
        ({"model": "concept:none"}, openai.NotFoundError, "no_such_concept", "'none'"),
        ({"model": "concept:in training"}, openai.ConflictError, "concept_in_training", "queued"),
        ({"prompt": "a mug"}, openai.UnprocessableEntityError, "invalid_request", "write it exactly once"),
        ({"size": "1024x1024"}, openai.UnprocessableEntityError, "wrong_size", "generates 64x64"),
        ({"n": 9}, openai.UnprocessableEntityError, "invalid_request", "n: "),
    ]
    for changes, kind, code, words in cases:
        with pytest.raises(kind) as raised:
            theirs.images.generate(**good | changes)
        assert raised.value.code == code
        assert words in raised.value.message
    with pytest.raises(openai.NotFoundError):
        theirs.models.retrieve("concept:in training")
    with pytest.raises(openai.AuthenticationError):
        theirs.with_options(api_key="opk_live_x").models.list()
