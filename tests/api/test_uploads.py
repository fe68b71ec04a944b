"""A service that accepts 1-8 photos instead of 3-5. tests/security has the uploads that every service refuses."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.domain.settings import Settings
from api.domain.tables import JobState
from tests.api.reference_images import reference


@pytest.fixture
def api_settings(settings: Settings) -> Settings:
    """Settings with a small limit per photo, so that a test exceeds it quickly."""
    return settings.model_copy(update={"min_references": 1, "max_references": 8, "max_upload_mb": 1})


@pytest.fixture
def narrow(settings: Settings, client: TestClient) -> Iterator[TestClient]:
    """A client of alice for a service over the same database that accepts 3-5 photos."""
    with TestClient(create_app(settings), base_url="http://localhost", headers=client.headers) as narrow:
        yield narrow


@pytest.mark.parametrize("count", [1, 8])
def test_as_many_photos_as_the_settings_allow_are_taken(upload: Callable[..., Any], count: int) -> None:
    answer = upload(*[reference(n) for n in range(count)])

    assert answer.status_code == 202, answer.text
    assert [reference["position"] for reference in answer.json()["concept"]["references"]] == [*range(1, count + 1)]


def test_one_photo_more_is_refused_with_the_numbers_of_the_settings(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]]
) -> None:
    answer = upload(*[reference(n) for n in range(9)])

    assert answer.status_code == 422
    assert answer.json()["detail"] == ("needs 1-8 reference images in the field `images`, got 9; leave some out")
    assert answer.json()["errors"] == [{"field": "images", "message": "needs 1-8 files, got 9"}]
    assert stored() == {"concept": 0, "job": 0, "reference": 0, "objects": 0}


def test_the_limit_of_a_body_grows_with_the_number_of_photos(upload: Callable[..., Any]) -> None:
    """8 x 1,000,000 bytes are more than 3-5 photos of 1 MB may have: (5 + 2) x 1,048,576 = 7,340,032."""
    assert upload(*[padded(n) for n in range(8)]).status_code == 202


def test_a_body_over_that_limit_is_refused_in_words(upload: Callable[..., Any]) -> None:
    """10 x 1,000,000 bytes are more than 9 x 1,048,576 = 9,437,184; 11 more than 10 x 1,048,576 = 10,485,760."""
    counted = upload(*[padded(n) for n in range(10)])
    declared = upload(*[padded(n) for n in range(11)])

    assert counted.status_code == declared.status_code == 413
    assert counted.json()["detail"] == "the upload is larger than 9 MB; send 1-8 images of at most 1 MB each"
    assert declared.json()["detail"] == "the request body is longer than the 10485760 bytes that this route accepts"


def test_the_openapi_description_has_the_numbers(client: TestClient) -> None:
    document = client.get("/openapi.json").json()

    body = document["paths"]["/v1/concepts"]["post"]["requestBody"]["content"]["multipart/form-data"]
    images = body["schema"]["properties"]["images"]
    assert (images["minItems"], images["maxItems"]) == (1, 8)
    assert images["description"].startswith("1-8 photos of one thing")
    assert "Upload 1-8 photos" in document["info"]["description"]
    for told in (str(document), client.get("/docs").text):
        assert "3-5" not in told
        assert "1-8 photos" in told


def test_the_dashboard_shows_and_checks_the_numbers(client: TestClient) -> None:
    client.post("/dashboard/sign-in", data={"key": client.headers["Authorization"].removeprefix("Bearer ")})

    form = client.get("/dashboard/concepts/new").text
    assert 'data-min-images="1" data-max-images="8"' in form
    assert "1-8 photos of one thing" in form
    for page in ("/dashboard", "/dashboard/jobs", "/dashboard/concepts"):
        assert "1-8 photos" in client.get(page).text


def test_a_concept_is_trained_again_where_its_number_of_photos_is_no_longer_allowed(
    upload: Callable[..., Any], set_job: Callable[..., None], narrow: TestClient
) -> None:
    accepted = upload(reference(1)).json()
    set_job(accepted["job"]["id"], state=JobState.cancelled)

    answer = narrow.post(f"/v1/concepts/{accepted['concept']['id']}/versions", json={})

    assert answer.status_code == 202, answer.text
    assert len(answer.json()["concept"]["references"]) == 1


def padded(number: int) -> bytes:
    """A photo of exactly 1,000,000 bytes; what follows the end of a JPEG is not read."""
    return reference(number).ljust(1_000_000, b"\0")
