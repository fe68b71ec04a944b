"""Accepted uploads. tests/security has the refused ones."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from api.domain.jobs import notify_queue
from api.domain.settings import Settings
from tests.api.reference_images import png_of, reference


def test_a_concept_is_accepted_with_its_job(upload: Callable[..., Any], stored: Callable[[], dict[str, int]]) -> None:
    answer = upload(
        reference(1),
        reference(2),
        reference(3),
        reference(4),
        seed="42",
        overrides='{"iterations": 5}',
    )

    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"/v1/concepts/{body['concept']['id']}"
    assert body["concept"]["state"] == "queued"
    assert body["concept"]["class_noun"] == "mug"
    assert [reference["position"] for reference in body["concept"]["references"]] == [1, 2, 3, 4]
    assert body["job"]["state"] == "queued"
    assert body["job"]["seed"] == 42
    assert body["job"]["queue_position"] == 1
    assert body["job"]["progress"] == 0
    assert stored() == {"concept": 1, "job": 1, "reference": 4, "objects": 4}


def test_a_request_can_say_when_its_training_may_end_early(upload: Callable[..., Any]) -> None:
    changes = '{"eval_every": 30, "patience": 2, "min_gain": 0.002}'
    answer = upload(reference(1), reference(2), reference(3), overrides=changes)

    assert answer.status_code == 202, answer.text
    assert answer.json()["job"]["overrides"] == {"eval_every": 30, "patience": 2, "min_gain": 0.002}


def test_the_workers_are_notified_after_the_commit(upload: Callable[..., Any], settings: Settings) -> None:
    broker = redis.Redis(unix_socket_path=settings.redis_url.removeprefix("redis+socket://").partition("?")[0])
    broker.delete(notify_queue("default"))

    job_id = upload(reference(1), reference(2), reference(3)).json()["job"]["id"]

    assert broker.llen(notify_queue("default")) == 1
    assert job_id.encode() in broker.lpop(notify_queue("default"))


def test_references_come_back_as_clean_png(client: TestClient, concept: dict[str, Any]) -> None:
    answer = client.get(concept["references"][0]["url"])

    assert answer.headers["content-type"] == "image/png"
    assert png_of(answer.content).size == (64, 64)
    again = client.get(concept["references"][0]["url"], headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


def test_a_fourth_reference_of_three_is_not_found(client: TestClient, concept: dict[str, Any]) -> None:
    answer = client.get(f"/v1/concepts/{concept['id']}/references/4")

    assert answer.status_code == 404
    assert answer.json()["code"] == "no_such_reference"


def test_concepts_are_listed_newest_first_page_by_page(client: TestClient, upload: Callable[..., Any]) -> None:
    for name in ("one", "two", "three"):
        assert upload(reference(1), reference(2), reference(3), name=name).status_code == 202

    first = client.get("/v1/concepts?limit=2").json()
    second = client.get(f"/v1/concepts?limit=2&cursor={first['next']}").json()

    assert [item["name"] for item in first["items"]] == ["three", "two"]
    assert [item["name"] for item in second["items"]] == ["one"]
    assert second["next"] is None


def test_a_name_is_taken_once_for_each_owner(
    client: TestClient, upload: Callable[..., Any], concept: dict[str, Any], new_key: Callable[..., str]
) -> None:
    again = upload(reference(4), reference(5), reference(6))
    assert again.status_code == 409
    assert again.json()["code"] == "name_taken"
    assert "'my mug'" in again.json()["detail"]
    assert again.json()["errors"][0]["field"] == "name"

    bob = {"Authorization": f"Bearer {new_key('bob')}"}
    assert upload(reference(4), reference(5), reference(6), headers=bob).status_code == 202


def test_an_unknown_class_noun_is_answered_with_the_place_of_the_list(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]], client: TestClient
) -> None:
    answer = upload(reference(1), reference(2), reference(3), class_noun="zwieback")

    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_class_noun")
    known = client.get("/v1/base").json()["nouns"]
    assert answer.json()["detail"] == (
        f"the base 'nano' does not know the class noun 'zwieback'; GET /v1/base lists the {len(known)} that it knows"
    )
    assert answer.json()["errors"][0]["field"] == "class_noun"
    assert stored() == {"concept": 0, "job": 0, "reference": 0, "objects": 0}


def test_a_class_noun_is_read_without_regard_to_case_and_spaces(upload: Callable[..., Any]) -> None:
    assert (
        upload(reference(1), reference(2), reference(3), class_noun="  Mug ").json()["concept"]["class_noun"] == "mug"
    )


def test_without_an_announced_base_the_answer_is_503(anonymous: TestClient, new_key: Callable[..., str]) -> None:
    files = [("images", ("a.jpg", reference(n))) for n in range(3)]
    answer = anonymous.post(
        "/v1/concepts",
        files=files,
        data={"name": "x", "class_noun": "mug", "consent": "true"},
        headers={"Authorization": f"Bearer {new_key()}"},
    )

    assert answer.status_code == 503
    assert answer.json()["code"] == "no_base"
    assert int(answer.headers["retry-after"]) >= 1


WRONG_FIELDS: list[tuple[dict[str, str], str]] = [
    ({"name": "   "}, "name"),
    ({"name": "a\u202eb"}, "name"),
    ({"name": "x" * 81}, "name"),
    ({"class_noun": ""}, "class_noun"),
    ({"preset": "fastest"}, "preset"),
    ({"seed": "-1"}, "seed"),
    ({"seed": str(2**63)}, "seed"),
    ({"seed": "NaN"}, "seed"),
    ({"seed": "1_0"}, "seed"),
    ({"state": "succeeded"}, "state"),
    ({"overrides": "{"}, "overrides"),
    ({"overrides": '{"iterations": 0}'}, "overrides.iterations"),
    ({"overrides": '{"iterations": true}'}, "overrides.iterations"),
    ({"overrides": '{"learning_rate": 1}'}, "overrides.learning_rate"),
    ({"overrides": '{"eval_every": -1}'}, "overrides.eval_every"),
    ({"overrides": '{"patience": 1.5}'}, "overrides.patience"),
    ({"overrides": '{"min_gain": -0.1}'}, "overrides.min_gain"),
    ({"overrides": '{"min_gain": 1e999}'}, "overrides.min_gain"),
    ({"overrides": '{"min_gain": true}'}, "overrides.min_gain"),
]


def test_an_override_that_is_there_twice_is_refused(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]]
) -> None:
    answer = upload(reference(1), reference(2), reference(3), overrides='{"iterations": 5, "iterations": 6}')

    assert (answer.status_code, answer.json()["code"]) == (400, "repeated_key")
    assert "'iterations'" in answer.json()["detail"]
    assert stored() == {"concept": 0, "job": 0, "reference": 0, "objects": 0}


def test_a_wrong_field_is_named(
    upload: Callable[..., Any], stored: Callable[[], dict[str, int]], subtests: pytest.Subtests
) -> None:
    for fields, wrong in WRONG_FIELDS:
        with subtests.test(str(fields)[:60]):
            answer = upload(reference(1), reference(2), reference(3), **fields)

            assert answer.status_code == 422
            assert answer.headers["content-type"] == "application/problem+json"
            assert [error["field"] for error in answer.json()["errors"]] == [wrong]
            assert wrong in answer.json()["detail"]
    assert stored() == {"concept": 0, "job": 0, "reference": 0, "objects": 0}


def test_a_name_is_text_whatever_it_looks_like(upload: Callable[..., Any]) -> None:
    answer = upload(reference(1), reference(2), reference(3), name="<svg onload=alert(1)>")

    assert answer.json()["concept"]["name"] == "<svg onload=alert(1)>"


def test_the_short_path_does_the_same(client: TestClient) -> None:
    answer = client.post(
        "/concepts",
        files=[("images", (f"{n}.jpg", reference(n))) for n in range(3)],
        data={"name": "my mug", "class_noun": "mug", "consent": "true"},
    )

    assert answer.status_code == 202
