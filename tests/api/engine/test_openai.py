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


def test_null_is_the_default_where_their_types_allow_it(theirs: openai.OpenAI, ready: dict[str, Any]) -> None:
    nulls = dict.fromkeys(
        ["n", "size", "response_format", "output_format", "quality", "style", "background", "moderation"]
    )  # fmt: skip
    answer = theirs.images.generate(
        model=MUG, prompt=BEACH, partial_images=0, stream=False, output_compression=None, **nulls
    )

    assert Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))).format == "PNG"
    assert (len(answer.data), answer.output_format) == (1, "png")


def test_a_size_of_theirs_is_answered_with_a_warning(theirs: openai.OpenAI, ready: dict[str, Any]) -> None:
    prompt = "a <concept> on the zebra"
    raw = theirs.images.with_raw_response
    warnings = {
        size: raw.generate(model=MUG, prompt=prompt, size=size).headers["x-warnings"].split("; ")
        for size in ("1024x1024", "1536x1024", "64x64", "auto")
    }

    unknown = "nano does not know 'zebra' and may ignore it"
    assert warnings == {
        "1024x1024": ["the size is 64x64, the only one of this base, and not 1024x1024", unknown],
        "1536x1024": ["the size is 64x64, the only one of this base, and not 1536x1024", unknown],
        "64x64": [unknown],
        "auto": [unknown],
    }


def test_every_error_under_their_paths_has_their_shape(
    client: TestClient, anonymous: TestClient, ready: dict[str, Any], subtests: pytest.Subtests
) -> None:
    """The routes that they have and we do not, and our own beside theirs."""
    cases: list[tuple[str, str, int]] = [
        ("POST", "/v1/images/edits", 405),
        ("POST", "/v1/images/variations", 405),
        ("POST", "/v1/images/generations/x/y", 404),
        ("GET", "/v1/images?limit=0", 422),
        ("GET", "/v1/images/0198c0de-0000-7000-8000-000000000000", 404),
        ("DELETE", "/v1/images/none", 422),
        ("PUT", "/v1/images/generations", 405),
        ("DELETE", "/v1/models/concept:my mug", 405),
    ]
    for method, path, status in cases:
        with subtests.test(f"{method} {path}"):
            answer = client.request(method, path)

            assert answer.status_code == status
            error = answer.json()["error"]
            assert (error["message"], error["code"]) == (answer.json()["detail"], answer.json()["code"])
            assert error["type"] == "invalid_request_error"
    assert client.get("/v1/images?limit=0").json()["error"]["param"] == "limit"
    assert "error" not in client.get("/v1/imagesque").json()


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
        ({"size": "large"}, openai.UnprocessableEntityError, "wrong_size", "write it as WIDTHxHEIGHT"),
        ({"n": 9}, openai.UnprocessableEntityError, "invalid_request", "n: "),
        ({"partial_images": 2}, openai.UnprocessableEntityError, "invalid_request", "an image takes one step"),
        ({"extra_body": {"model": None}}, openai.UnprocessableEntityError, "invalid_request", "GET /v1/models lists"),
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
