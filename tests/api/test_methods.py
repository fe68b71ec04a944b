"""The method of a job: chosen with the request, kept when a concept is trained again, shown, and timed apart."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.domain import jobs
from api.domain.database import Sessions
from api.domain.tables import Concept, Heartbeat, JobState, ServedBase
from api.domain.training_times import StageTime, TrainingTime, timing
from tests.api.reference_images import reference
from tests.api.test_dashboard import sign_in
from tests.api.test_replaced_base import put_bundle, replace_base

OPAD = TrainingTime({"distillation": StageTime(12.0, 0.25), "collaborative": StageTime(3.0, 0.5)}, 8.0, "measured")
CUSTOM_DIFFUSION = TrainingTime({"training": StageTime(4.0, 0.125)}, 8.0, "measured")
REFUSED = [
    (
        {"method": "dreambooth"},
        "method",
        "the service learns key/value concepts alone, which it generates in mixed batches; dreambooth makes another "
        "kind: learn it with `python -m opad_core train --method dreambooth`",
    ),
    ({"method": "cones"}, "method", "Input should be 'opad' or 'custom_diffusion'"),
    (
        {"method": "custom_diffusion", "preset": "paper"},
        "preset",
        "'paper' belongs to the method opad; custom_diffusion has only the preset default",
    ),
    (
        {"method": "custom_diffusion", "keep_teacher": True},
        "keep_teacher",
        "custom_diffusion trains no teacher that could be kept; leave keep_teacher out",
    ),
    (
        {"method": "custom_diffusion", "overrides": {"iterations": 9, "collaborative_iterations": 0}},
        "overrides",
        "custom_diffusion has no collaborative stage; leave collaborative_iterations out",
    ),
]


@pytest.fixture
def learned(upload: Callable[..., Any], set_job: Callable[..., None], sessions: Sessions) -> dict[str, Any]:
    """A concept of alice whose job by Custom Diffusion has ended."""
    answer = upload(
        reference(1), reference(2), reference(3), method="custom_diffusion", preset="default", keep_teacher="false",
        overrides='{"iterations": 20}',
    )  # fmt: skip
    assert answer.status_code == 202, answer.text
    set_job(answer.json()["job"]["id"], state=JobState.succeeded, finished_at=datetime.now(UTC))
    put_bundle(sessions, answer.json()["concept"])
    return answer.json()["concept"]


@pytest.fixture
def announced(base: None, sessions: Sessions) -> None:
    """The settings that an engine announces, and a trainer on a CPU."""
    opad = {"iterations": 100, "collaborative_iterations": 10, "teacher_first": False}
    values = {"presets": {"default": opad}, "methods": {"custom_diffusion": {"iterations": 80, "class_images": 64}}}
    with sessions.begin() as db:
        db.execute(update(ServedBase).values(values))
        db.add(Heartbeat(name="trainer", kind="trainer", facts={"device": "cpu"}))


def test_a_job_and_its_concept_show_the_method(client: TestClient, learned: dict[str, Any]) -> None:
    def shown() -> list[str]:
        concept = client.get(f"/v1/concepts/{learned['id']}").json()
        of_list = client.get("/v1/concepts").json()["items"][0]
        return [concept["method"], of_list["method"], *(job["method"] for job in concept["jobs"])]

    assert shown() == ["custom_diffusion"] * 3
    assert learned["jobs"][0]["overrides"] == {"iterations": 20}
    again = client.post(f"/v1/concepts/{learned['id']}/versions", json={})
    assert again.json()["job"]["method"] == "opad"
    assert shown() == ["opad", "opad", "opad", "custom_diffusion"]


def test_what_another_method_does_not_take_is_refused_in_words(
    client: TestClient, concept: dict[str, Any], upload: Callable[..., Any], subtests: pytest.Subtests
) -> None:
    for fields, wrong, sentence in REFUSED:
        with subtests.test(str(fields)):
            version = client.post(f"/v1/concepts/{concept['id']}/versions", json=fields)
            overrides = '{"collaborative_iterations": 0}'
            as_form = {k: overrides if k == "overrides" else str(v) for k, v in fields.items()}
            form = upload(reference(4), reference(5), reference(6), name="new", **as_form)
            for answer in (version, form):
                assert answer.status_code == 422
                assert answer.json()["errors"] == [{"field": wrong, "message": sentence}]
    assert len(client.get("/v1/jobs").json()["items"]) == 1


def test_an_estimate_takes_the_fields_of_its_method(client: TestClient) -> None:
    def refusal(query: str) -> list[str]:
        answer = client.get(f"/v1/estimate?{query}")
        assert answer.status_code == 422
        return [error["field"] for error in answer.json()["errors"]]

    assert refusal("method=lora") == ["method"]
    assert refusal("method=custom_diffusion&preset=paper") == ["preset"]
    assert refusal("method=custom_diffusion&collaborative_iterations=0") == ["collaborative_iterations"]


def test_times_of_methods_are_not_mixed(
    client: TestClient, announced: None, upload: Callable[..., Any], sessions: Sessions
) -> None:
    def learn(name: str, time: TrainingTime, **fields: str) -> None:
        job_id = UUID(upload(reference(1), reference(2), reference(3), name=name, **fields).json()["job"]["id"])
        with sessions.begin() as db:
            _, fence, _ = db.execute(jobs.claim("w", lease_seconds=60, job_id=job_id)).one()
            db.execute(jobs.finish(job_id, fence, key=name, sha256="00", size=1, timing=timing(time, "cpu"))).one()

    def estimated(query: str) -> tuple[float, str]:
        found = client.get(f"/v1/estimate?{query}").json()
        return found["training_seconds"], found["source"]

    learn("first", OPAD)
    assert estimated("method=opad") == (53, "history")  # 12 + 100 x 0.25, 3 + 10 x 0.5, and 8 at the end
    assert estimated("method=custom_diffusion")[1] == "estimate"
    learn("second", CUSTOM_DIFFUSION, method="custom_diffusion")
    assert estimated("method=opad") == (53, "history")
    assert estimated("method=custom_diffusion") == (22, "history")  # 4 + 80 x 0.125, and 8
    assert estimated("method=custom_diffusion&iterations=16") == (14, "history")

    queued = upload(reference(1), reference(2), reference(3), name="third", method="custom_diffusion").json()["job"]
    job = client.get(f"/v1/jobs/{queued['id']}").json()
    assert (job["starts_in_seconds"], job["eta_seconds"], job["eta_source"]) == (0, 22, "history")


def test_the_forms_estimate_leaves_out_what_its_method_does_not_take(
    anonymous: TestClient, new_key: Callable[..., str], announced: None
) -> None:
    sign_in(anonymous, new_key())

    def sentence(query: str) -> str:
        answer = anonymous.get(f"/dashboard/estimate?{query}")
        assert answer.status_code == 200
        return answer.text

    usual = sentence("method=custom_diffusion")
    assert "(estimate)" in usual
    assert sentence("method=custom_diffusion&preset=paper&iterations=0&collaborative_iterations=7") == usual
    assert sentence("method=custom_diffusion&iterations=8000") != usual
    assert sentence("method=opad") != usual


def test_all_are_trained_again_by_the_method_of_their_newest_job(
    client: TestClient, learned: dict[str, Any], sessions: Sessions
) -> None:
    replace_base(sessions)
    with sessions.begin() as db:
        db.execute(update(Concept).values(base="old"))

    [job] = client.post("/v1/concepts/versions").json()["jobs"]

    assert (job["method"], job["preset"], job["version"]) == ("custom_diffusion", "default", 2)


def test_the_pages_show_the_method_and_train_again_by_it(
    client: TestClient, learned: dict[str, Any], new_key: Callable[..., str], announced: None
) -> None:
    del client.headers["Authorization"]
    sign_in(client, new_key())

    concept = client.get(f"/dashboard/concepts/{learned['id']}").text
    assert """data-body='{"method": "custom_diffusion"}'""" in concept
    assert "/dashboard/estimate?method=custom_diffusion" in concept
    for page in (concept, client.get("/dashboard/jobs").text):
        assert '<td class="wide-only quiet">custom diffusion</td>' in page
    assert "v1, custom diffusion</option>" in client.get("/dashboard/preference").text

    job = client.get(f"/dashboard/jobs/{learned['jobs'][0]['id']}").text
    pairs = re.findall(r"<dt>(\w+)</dt><dd>([\w ]+)</dd>", job)
    assert ("method", "custom diffusion") in pairs
    assert {"preset", "teacher"} & {name for name, _ in pairs} == set()
    row = r"<code>iterations</code></th><td class=\"number\"><b>20</b></td><td class=\"number quiet\">80</td>"
    assert re.search(row, job)
    assert "<code>class_images</code>" in job
