"""User studies: blind groups in each voter's own order, one vote for each, and the counts."""

import csv
import io
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import func, select

from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.domain.tables import Study, StudyGroup, StudyImage, StudyVote
from tests.api.test_auth import bearer
from tests.study_folder import METHODS, write_study
from worker.study_import import import_study

NAMES = [word.encode() for method in METHODS.items() for word in method]


@pytest.fixture
def study(client: TestClient, settings: Settings, sessions: Sessions, tmp_path: Path) -> str:
    """The path of a study of alice with eight groups of three images."""
    write_study(tmp_path / "folder")
    found = import_study(
        tmp_path / "folder", owner_name="alice", sessions=sessions, storage=Storage(settings), say=lambda line: None
    )
    return f"/v1/studies/{found.id}"


def group_for(client: TestClient, study: str, voter: str) -> Any:
    return client.get(f"{study}/next", params={"voter": voter}).json()["group"]


def vote(client: TestClient, study: str, image: dict[str, str], voter: str | None = "Ana") -> Any:
    return client.post(f"{study}/votes", json={"image_id": image["id"], "voter": voter})


def method_of(sessions: Sessions, image: dict[str, str]) -> str:
    with sessions() as db:
        return db.scalars(select(StudyImage.method).where(StudyImage.id == image["id"])).one()


def test_nothing_that_is_sent_before_the_vote_names_a_method(
    client: TestClient, study: str, new_key: Callable[..., str]
) -> None:
    said = []
    client.post("/dashboard/sign-in", data={"key": new_key()})
    for _ in range(8):
        group = group_for(client, study, "Ana")
        addresses = [image["url"] for image in group["images"]] + group["reference_urls"]
        page = f"/dashboard{study.removeprefix('/v1')}?voter=Ana"
        for address in ("/v1/studies", study, f"{study}/next?voter=Ana", "/dashboard/studies", page, *addresses):
            answer = client.get(address)
            assert answer.status_code == 200, answer.text
            said += [address.encode(), answer.content, *(value.encode() for value in answer.headers.values())]
        said.append(vote(client, study, random.choice(group["images"])).content)
    assert len(said) > 8 * 10
    assert [text[:200] for text in said if any(name in text for name in NAMES)] == []
    assert NAMES[1] in client.get(f"{study}/results").content, "after the votes"


def test_each_voter_sees_groups_and_images_in_an_order_of_their_own(
    client: TestClient, study: str, sessions: Sessions
) -> None:
    orders, firsts, places = set(), set(), Counter[str]()
    for number in range(30):
        group = group_for(client, study, f"voter {number}")
        assert group == group_for(client, study, f"voter {number}"), "the same after a reload"
        methods = tuple(method_of(sessions, image) for image in group["images"])
        assert sorted(methods) == sorted(METHODS)
        orders.add(methods)
        firsts.add(group["prompt"])
        places[methods[0]] += 1
    # 30 draws miss one of 6 orders with probability 6 * (5/6)^30 = 0.025, and three of them with less than 1e-7
    assert len(orders) >= 4
    assert len(firsts) >= 4
    assert max(places.values()) < 26, "binomial of 30 draws with 1/3: less than 1e-9"


def test_a_person_votes_once_on_each_group_until_none_is_left(client: TestClient, study: str) -> None:
    prompts = []
    answer = client.get(f"{study}/next", params={"voter": "Ana"}).json()
    while answer["group"]:
        assert (answer["voted"], answer["groups"]) == (len(prompts), 8)
        prompts.append(answer["group"]["prompt"])
        image, other, _ = answer["group"]["images"]
        answer = vote(client, study, image).json()
        again = vote(client, study, other)
        assert (again.status_code, again.json()["code"]) == (409, "already_voted")
    assert len(set(prompts)) == 8
    assert (answer["voted"], answer["group"]) == (8, None)
    described = client.get(study).json()
    assert (described["title"], described["groups"], described["methods"]) == ("Mugs and dogs", 8, 3)
    assert (described["voters"], described["votes"]) == (1, 8)


def test_without_a_name_the_key_is_the_voter(client: TestClient, study: str, new_key: Callable[..., str]) -> None:
    group = client.get(f"{study}/next").json()["group"]
    assert vote(client, study, group["images"][0], voter=None).status_code == 201
    assert vote(client, study, group["images"][1], voter=None).status_code == 409
    client.headers["Authorization"] = f"Bearer {new_key('alice')}"
    assert vote(client, study, group["images"][1], voter=None).status_code == 201


def test_results_are_the_shares_of_the_methods(client: TestClient, study: str, sessions: Sessions) -> None:
    wished = ["alpha"] * 6 + ["beta"] * 2
    for method in wished:
        images = group_for(client, study, "=Ana")["images"]
        assert vote(client, study, next(i for i in images if method_of(sessions, i) == method), "=Ana").is_success

    results = client.get(f"{study}/results").json()

    assert (results["voters"], results["votes"]) == (1, 8)
    assert [(one["label"], one["chosen"], one["share"]) for one in results["methods"]] == [
        ("Alpha Method", 6, 0.75), ("Beta Method", 2, 0.25), ("Gamma Method", 0, 0.0),
    ]  # fmt: skip
    # Wilson, 6 of 8: center (0.75 + 3.8415 / 16) / (1 + 3.8415 / 8) = 0.6689, half width 0.2595
    assert results["methods"][0]["interval"] == pytest.approx((0.4093, 0.9285), abs=1e-4)
    table = client.get(f"{study}/results", params={"format": "csv"})
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert (rows[1]["method"], rows[1]["chosen"], rows[1]["votes"], rows[1]["share"]) == ("beta", "2", "8", "0.25")
    votes = client.get(f"{study}/votes").json()["items"]
    assert [one["method"] for one in votes] == wished
    assert {one["prompt"] for one in votes} >= {"a dog at night", "a mug in the snow"}
    cast = list(csv.DictReader(io.StringIO(client.get(f"{study}/votes", params={"format": "csv"}).text)))
    assert [one["voter"] for one in cast] == ["'=Ana"] * 8, "no formula for a spreadsheet"


def test_a_study_without_votes_has_no_shares(client: TestClient, study: str) -> None:
    methods = client.get(f"{study}/results").json()["methods"]
    assert [(one["chosen"], one["share"], one["interval"]) for one in methods] == [(0, None, None)] * 3


def test_images_are_read_and_a_reference_gets_no_vote(client: TestClient, study: str) -> None:
    group = group_for(client, study, "Ana")
    for url in (group["images"][0]["url"], *group["reference_urls"]):
        with Image.open(io.BytesIO(client.get(url).content)) as image:
            assert (image.format, image.size, image.info) == ("PNG", (64, 64), {})
    assert len(group["reference_urls"]) == 2
    photo = {"id": group["reference_urls"][0].rsplit("/", 1)[1]}
    assert vote(client, study, photo).json()["code"] == "no_such_study_image"


def test_a_deleted_study_leaves_nothing(client: TestClient, study: str, sessions: Sessions, settings: Settings) -> None:
    vote(client, study, group_for(client, study, "Ana")["images"][0])
    assert client.delete(study).status_code == 204
    assert client.get(study).status_code == 404
    assert client.get("/v1/studies").json() == {"items": [], "next": None}
    with sessions() as db:
        for table in (Study, StudyGroup, StudyImage, StudyVote):
            assert db.scalar(select(func.count()).select_from(table)) == 0
    assert list(Storage(settings).entries("studies/")) == []
    assert client.get("/v1/audit").json()["items"][0]["action"] == "study.delete"


def test_scopes_are_those_of_preferences(client: TestClient, study: str, new_key: Callable[..., str]) -> None:
    image = group_for(client, study, "Ana")["images"][0]
    reader, generator = (bearer(new_key("alice", scopes=(scope,))) for scope in ("read", "generate"))
    ballot = {"image_id": image["id"], "voter": "Ana"}
    assert client.post(f"{study}/votes", json=ballot, headers=reader).status_code == 403
    assert client.post(f"{study}/votes", json=ballot, headers=generator).status_code == 201
    assert client.get(f"{study}/results", headers=generator).status_code == 403
    assert client.get(f"{study}/results", headers=reader).status_code == 200
    assert client.delete(study, headers=generator).status_code == 403
