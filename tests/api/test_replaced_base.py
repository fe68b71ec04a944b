"""Concepts whose base was replaced after their training: they say so, and are trained again on the present one."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, func, insert, update

from api.domain.database import Sessions
from api.domain.tables import Attempt, Bundle, Concept, JobState, Reference, ServedBase
from tests.api.reference_images import reference

OLD, NEW = "0" * 64, "1" * 64
TRAIN_AGAIN = "was trained on another base than the one that runs now; train it again with POST /v1/concepts/"


def put_bundle(sessions: Sessions, concept: dict[str, Any], *, version: int = 1, base_sha256: str | None = OLD) -> None:
    job_id = next(job["id"] for job in concept["jobs"] if job["version"] == version)
    with sessions.begin() as db:
        db.add(
            Bundle(
                job_id=UUID(job_id), concept_id=UUID(concept["id"]), version=version, key=job_id, sha256=OLD, size=1,
                base_sha256=base_sha256,
            )
        )  # fmt: skip


def replace_base(sessions: Sessions, name: str = "nano", **columns: Any) -> None:
    """Announce another base, as a new engine does."""
    with sessions.begin() as db:
        db.execute(delete(ServedBase).where(ServedBase.name == name))
        db.execute(insert(ServedBase).values(name=name, resolution=64, manifest_sha256=NEW, announced_at=func.now(),
                                             **columns))  # fmt: skip


@pytest.fixture
def trained(concept: dict[str, Any], set_job: Callable[..., None], sessions: Sessions) -> dict[str, Any]:
    """A concept of alice that was trained on the base `OLD`."""
    set_job(concept["jobs"][0]["id"], state=JobState.succeeded, finished_at=datetime.now(UTC), preset="paper")
    put_bundle(sessions, concept)
    return concept


def test_it_is_ready_until_its_base_is_replaced(
    client: TestClient, trained: dict[str, Any], sessions: Sessions
) -> None:
    def read() -> list[tuple[str, Any]]:
        of_list = client.get("/v1/concepts").json()["items"]
        model = client.get("/v1/models/concept:my mug").json()
        answers = [*of_list, client.get(f"/v1/concepts/{trained['id']}").json()]
        return [*((answer["state"], answer["problem"]) for answer in answers), ("model", model["problem"])]

    assert read() == [("ready", None), ("ready", None), ("model", None)]
    replace_base(sessions)

    [(state, problem), *others] = read()
    assert state == "base_changed"
    assert problem == {
        "code": "base_changed",
        "detail": f"'my mug' {TRAIN_AGAIN}{trained['id']}/versions",
        "can_learn_again": True,
    }
    assert others == [("base_changed", problem), ("model", problem)]
    refused = client.post("/v1/generate", json={"concept": "my mug", "prompt": "a <concept>"})
    assert (refused.status_code, refused.json()["code"], refused.json()["detail"]) == (
        409, "base_changed", problem["detail"],
    )  # fmt: skip


def test_a_base_of_another_name_replaces_it_too_and_its_return_repairs_all(
    client: TestClient, trained: dict[str, Any], sessions: Sessions
) -> None:
    def state() -> str:
        return str(client.get(f"/v1/concepts/{trained['id']}").json()["state"])

    replace_base(sessions, "sd-turbo")
    assert state() == "base_changed"
    with sessions.begin() as db:
        db.execute(update(ServedBase).where(ServedBase.name == "nano").values(announced_at=func.now()))
    assert state() == "ready"


def test_a_bundle_that_does_not_name_its_base_is_not_judged(
    client: TestClient, concept: dict[str, Any], set_job: Callable[..., None], sessions: Sessions
) -> None:
    set_job(concept["jobs"][0]["id"], state=JobState.succeeded)
    put_bundle(sessions, concept, base_sha256=None)
    replace_base(sessions)

    assert client.get(f"/v1/concepts/{concept['id']}").json()["state"] == "ready"


def test_the_list_is_filtered_by_the_state(client: TestClient, trained: dict[str, Any], sessions: Sessions) -> None:
    replace_base(sessions)

    def found(state: str) -> int:
        return len(client.get("/v1/concepts", params={"state": state}).json()["items"])

    assert [found(state) for state in ("ready", "base_changed", "queued", "failed")] == [0, 1, 0, 0]


def test_training_it_again_takes_the_present_base(
    client: TestClient, trained: dict[str, Any], sessions: Sessions
) -> None:
    replace_base(sessions, "sd-turbo")
    with sessions.begin() as db:
        db.execute(delete(ServedBase).where(ServedBase.name == "nano"))
        db.execute(update(ServedBase).values(name="nano"))  # the settings name it
        db.execute(update(Concept).values(base="old"))

    answer = client.post(f"/v1/concepts/{trained['id']}/versions", json={})

    assert answer.status_code == 202
    concept = answer.json()["concept"]
    assert (concept["state"], concept["base"]) == ("queued", "nano")
    assert concept["problem"]["code"] == "concept_in_training"
    refused = client.post("/v1/generate", json={"concept": "my mug", "prompt": "a <concept>"})
    assert (refused.status_code, refused.json()["code"]) == (409, "concept_in_training")


def test_all_are_trained_again_by_one_request_that_is_safe_to_repeat(
    client: TestClient, trained: dict[str, Any], upload: Callable[..., Any], sessions: Sessions
) -> None:
    upload(reference(4), reference(5), reference(6), name="never trained")
    replace_base(sessions)
    with sessions.begin() as db:
        db.execute(update(Concept).values(base="old"))

    first = client.post("/v1/concepts/versions")
    again = client.post("/v1/concepts/versions")

    assert (first.status_code, first.json()["skipped"]) == (202, [])
    [job] = first.json()["jobs"]
    assert (job["concept_name"], job["version"], job["state"], job["preset"]) == ("my mug", 2, "queued", "paper")
    assert (again.status_code, again.json()["jobs"]) == (202, [])
    [skipped] = again.json()["skipped"]
    assert (skipped["name"], skipped["code"]) == ("my mug", "concept_in_training")
    assert client.get(f"/v1/concepts/{trained['id']}").json()["base"] == "nano"
    assert client.get("/v1/overview").json()["attention"] == []


def test_a_concept_of_another_owner_stays(
    client: TestClient, trained: dict[str, Any], new_key: Callable[..., str], sessions: Sessions
) -> None:
    replace_base(sessions)
    client.headers["Authorization"] = f"Bearer {new_key('bob')}"

    assert client.post("/v1/concepts/versions").json() == {"jobs": [], "skipped": []}


def test_a_used_up_quota_trains_none(
    client: TestClient, trained: dict[str, Any], new_key: Callable[..., str], sessions: Sessions
) -> None:
    replace_base(sessions)
    with sessions.begin() as db:
        now = datetime.now(UTC)
        job_id = UUID(trained["jobs"][0]["id"])
        db.add(Attempt(job_id=job_id, fence=1, worker="w", started_at=now, ended_at=now + timedelta(minutes=5)))
    key = new_key(limits={"training_minutes_per_day": 1})
    client.headers["Authorization"] = f"Bearer {key}"

    answer = client.post("/v1/concepts/versions")

    assert (answer.status_code, answer.json()["code"]) == (429, "training_quota")
    assert len(client.get("/v1/jobs").json()["items"]) == 1


@pytest.mark.parametrize("code", ["references_gone", "unknown_class_noun"])
def test_what_cannot_be_trained_again_says_why(
    client: TestClient, trained: dict[str, Any], sessions: Sessions, code: str
) -> None:
    replace_base(sessions, nouns=["cat"] if code == "unknown_class_noun" else None)
    if code == "references_gone":
        with sessions.begin() as db:
            db.execute(delete(Reference))
    reason = {
        "references_gone": "because its photos were deleted when their retention time was over; erase it, and upload",
        "unknown_class_noun": "because this base does not know 'mug'; upload its photos as a new concept",
    }[code]

    answer = client.post("/v1/concepts/versions").json()
    problem = client.get(f"/v1/concepts/{trained['id']}").json()["problem"]
    one = client.post(f"/v1/concepts/{trained['id']}/versions", json={})

    assert answer["jobs"] == []
    [skipped] = answer["skipped"]
    assert (skipped["concept_id"], skipped["code"]) == (trained["id"], code)
    assert reason in skipped["detail"]
    assert (problem["code"], problem["can_learn_again"]) == ("base_changed", False)
    assert reason in problem["detail"]
    assert one.json()["code"] == code
    [item] = client.get("/v1/overview").json()["attention"]
    assert (item["kind"], item["message"]) == (
        "base_changed_for_good",
        "1 concept generates no images since the base was replaced, and cannot be trained again",
    )


def test_the_overview_asks_to_train_them_again(client: TestClient, trained: dict[str, Any], sessions: Sessions) -> None:
    replace_base(sessions)

    [item] = client.get("/v1/overview").json()["attention"]

    assert (item["kind"], item["message"]) == (
        "base_changed", "1 concept generates no images since the base was replaced",
    )  # fmt: skip


def test_an_older_version_of_the_old_base_is_refused_by_its_number(
    client: TestClient, trained: dict[str, Any], sessions: Sessions, set_job: Callable[..., None]
) -> None:
    replace_base(sessions)
    concept = client.post(f"/v1/concepts/{trained['id']}/versions", json={}).json()["concept"]
    set_job(concept["jobs"][0]["id"], state=JobState.succeeded)
    put_bundle(sessions, concept, version=2, base_sha256=NEW)

    refused = client.post("/v1/generate", json={"concept": "my mug", "prompt": "a <concept>", "version": 1})

    assert client.get(f"/v1/concepts/{trained['id']}").json()["state"] == "ready"
    assert (refused.status_code, refused.json()["code"]) == (409, "base_changed")
    assert refused.json()["detail"] == (
        "version 1 of 'my mug' was trained on another base than the one that runs now; leave `version` out"
    )


def test_the_limits_of_the_base_are_told_before_the_training(
    client: TestClient, upload: Callable[..., Any], sessions: Sessions
) -> None:
    limits = "The base was trained on drawings."
    replace_base(sessions, limits=limits)

    accepted = upload(reference(1), reference(2), reference(3)).json()

    assert accepted["warnings"] == [limits]
    assert client.get("/v1/base").json()["limits"] == limits
    replace_base(sessions)
    assert upload(reference(1), reference(2), reference(3), name="another").json()["warnings"] == []
