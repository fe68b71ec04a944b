"""Names, class nouns and prompts are read by one rule on every route; domain/test_text_rules.py has the rule."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.domain.database import Sessions
from api.domain.tables import Concept, Image
from tests.api.reference_images import reference

COMPOSED, DECOMPOSED = "Caf\u00e9 mug", " Cafe\u0301\u00a0mug\u3000"


def test_one_name_in_two_spellings_is_one_name_everywhere(client: TestClient, upload: Callable[..., Any]) -> None:
    photos = reference(1), reference(2), reference(3)
    accepted = upload(*photos, name=DECOMPOSED, class_noun="\u3000MUG\u00a0").json()["concept"]
    again = upload(*photos, name=COMPOSED)
    generated = client.post("/v1/generate", json={"concept": DECOMPOSED, "prompt": "a <concept>"})
    as_model = client.post("/v1/images/generations", json={"model": f"concept:{DECOMPOSED}", "prompt": "a <concept>"})
    found = client.get("/v1/concepts", params={"name": "cafe\u0301\u00a0m"}).json()["items"]
    jobs = client.get("/v1/jobs", params={"name": "cafe\u0301"}).json()["items"]

    assert (accepted["name"], accepted["class_noun"]) == (COMPOSED, "mug")
    assert (again.status_code, again.json()["code"]) == (409, "name_taken")
    assert (generated.status_code, generated.json()["code"]) == (409, "concept_in_training")
    assert (as_model.status_code, as_model.json()["code"]) == (409, "concept_in_training")
    assert [item["id"] for item in found] == [accepted["id"]]
    assert [item["concept_id"] for item in jobs] == [accepted["id"]]


def test_the_length_is_that_of_the_text_that_is_stored(upload: Callable[..., Any]) -> None:
    photos = reference(1), reference(2), reference(3)
    longer = upload(*photos, name=80 * "\u0958")
    shorter = upload(*photos, name=80 * "e\u0301" + 20 * " ")

    assert longer.status_code == 422, "80 letters become 160"
    assert [error["field"] for error in longer.json()["errors"]] == ["name"]
    assert shorter.status_code == 202, "180 characters become 80"
    assert shorter.json()["concept"]["name"] == 80 * "\u00e9"


def test_an_emoji_family_is_a_name_and_a_blank_letter_is_none(upload: Callable[..., Any]) -> None:
    photos = reference(1), reference(2), reference(3)
    assert upload(*photos, name="👨\u200d👩\u200d👧 mug").status_code == 202
    refused = upload(*photos, name="\u3164")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "name")


@pytest.mark.parametrize(
    "prompt", ["a <concept>\x1b[31m", "a \u202e<concept>", "a <concept> o\u200bn", "a\x00 <concept>"]
)
def test_a_prompt_with_what_nobody_sees_is_refused(client: TestClient, prompt: str) -> None:
    for path, subject in (("generate", {"concept": "my mug"}), ("images/generations", {"model": "concept:my mug"})):
        answer = client.post(f"/v1/{path}", json={**subject, "prompt": prompt})

        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == ["prompt"]


def test_a_concept_is_named_by_its_id_before_its_name(
    client: TestClient, concept: dict[str, Any], upload: Callable[..., Any], sessions: Sessions
) -> None:
    """One concept is named like the other's id, and one like an id that nobody has."""
    nobody = str(uuid4())
    photos = reference(1), reference(2), reference(3)
    named_like_it = upload(*photos, name=concept["id"]).json()["job"]["id"]
    named_like_none = upload(*photos, name=nobody).json()["job"]["id"]

    def job_of(wanted: str) -> str:
        return client.post("/v1/generate", json={"concept": wanted, "prompt": "a <concept>"}).json()["job_id"]

    assert job_of(concept["id"]) == concept["jobs"][0]["id"] != named_like_it
    assert job_of(concept["id"].upper().replace("-", "")) == concept["jobs"][0]["id"]
    assert job_of(nobody) == named_like_none
    assert client.post("/v1/generate", json={"concept": str(uuid4()), "prompt": "a <concept>"}).status_code == 404


def test_an_image_whose_prompt_was_allowed_once_is_still_listed(
    client: TestClient, concept: dict[str, Any], sessions: Sessions
) -> None:
    with sessions.begin() as db:
        owner_id = db.scalars(select(Concept.owner_id).where(Concept.id == UUID(concept["id"]))).one()
        db.add(
            Image(owner_id=owner_id, concept_id=UUID(concept["id"]), version=1, prompt="a\u200b <concept>", seed=1,
                  format="png", key="images/x", sha256="0" * 64, size=1)
        )  # fmt: skip

    answer = client.get("/v1/images")

    assert answer.status_code == 200
    assert answer.json()["items"][0]["settings"]["prompt"] == "a\u200b <concept>"
