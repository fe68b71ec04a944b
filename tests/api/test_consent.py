"""The consent that a concept needs."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.app import create_app
from api.domain.consent import STATEMENT, STATEMENT_VERSION
from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.tables import ApiKey, Consent, JobState
from tests.api.reference_images import reference


@pytest.fixture
def photos() -> tuple[bytes, bytes, bytes]:
    return reference(1), reference(2), reference(3)


@pytest.mark.parametrize("sent", ["false", "", "0"])
def test_without_consent_nothing_is_taken(
    upload: Callable[..., Any], photos: tuple[bytes, ...], stored: Callable[[], dict[str, int]], sent: str
) -> None:
    answer = upload(*photos, consent=sent)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == ["consent"]
    assert stored() == {"concept": 0, "job": 0, "reference": 0, "objects": 0}


def test_the_refusal_shows_the_words_to_agree_to(upload: Callable[..., Any], photos: tuple[bytes, ...]) -> None:
    answer = upload(*photos, consent="false").json()

    assert (answer["code"], answer["statement"]) == ("consent_missing", STATEMENT)
    assert "consent=true" in answer["detail"]


def test_who_consented_to_what_and_when_is_kept_with_the_concept(
    client: TestClient, concept: dict[str, Any], sessions: Sessions
) -> None:
    consent = client.get(f"/v1/concepts/{concept['id']}").json()["consent"]

    with sessions() as db:
        api_key_id = db.scalars(select(ApiKey.id)).one()
    assert consent["source"] == "statement"
    assert consent["statement_version"] == STATEMENT_VERSION
    assert consent["api_key_id"] == str(api_key_id)
    assert consent["given_at"] == concept["created_at"], "one transaction, one time"


def test_it_is_erased_with_the_concept(
    client: TestClient, concept: dict[str, Any], sessions: Sessions, set_job: Callable[..., None]
) -> None:
    set_job(concept["jobs"][0]["id"], state=JobState.cancelled)
    assert client.delete(f"/v1/concepts/{concept['id']}").status_code == 200

    with sessions() as db:
        assert db.get(Consent, UUID(concept["id"])) is None


def test_an_installation_may_have_its_users_consent_already(
    settings: Settings, new_key: Callable[..., str], base: None, photos: tuple[bytes, ...]
) -> None:
    agreed = settings.model_copy(update={"consent": "policy"})
    with TestClient(create_app(agreed), base_url="http://localhost") as client:
        answer = client.post(
            "/v1/concepts",
            files=[("images", (f"{n}.jpg", data)) for n, data in enumerate(photos)],
            data={"name": "my mug", "class_noun": "mug"},
            headers={"Authorization": f"Bearer {new_key()}"},
        )

    assert answer.status_code == 202, answer.text
    assert answer.json()["concept"]["consent"]["source"] == "policy"
