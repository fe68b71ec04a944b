"""HEAD on every route that has GET."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi.testclient import TestClient

VARYING = {"x-request-id", "date", "ratelimit", "set-cookie", "content-length"}
"""The length varies because a job's body says how long it has waited."""


NOBODYS = ["image_id", "key_id", "webhook_id", "delivery_id", "model", "study_id", "study_image_id"]


def test_head_is_get_without_the_body(client: TestClient, concept: dict[str, Any], subtests: pytest.Subtests) -> None:
    nobody = str(UUID(int=7))
    known = {
        "concept_id": concept["id"],
        "job_id": concept["jobs"][0]["id"],
        "position": "1",
        "version": "1",
        "step": "1",
    }
    values = {**dict.fromkeys(NOBODYS, nobody), **known}
    paths = [path for path, methods in client.get("/openapi.json").json()["paths"].items() if "get" in methods]
    paths.remove("/v1/jobs/{job_id}/events")
    assert len(paths) > 30
    for path in [*paths, "/docs", "/openapi.json", "/static/app.js", "/dashboard", "/dashboard/sign-in"]:
        address = path.format_map(values)
        with subtests.test(path):
            get, head = client.get(address), client.head(address)

            assert (head.status_code, head.content) == (get.status_code, b"")
            assert set(head.headers) == set(get.headers)
            theirs = {name: value for name, value in get.headers.items() if name not in VARYING}
            assert {name: value for name, value in head.headers.items() if name not in VARYING} == theirs


def test_head_of_a_stream_ends_at_once(
    served: str, new_key: Callable[..., str], client: TestClient, concept: dict[str, Any]
) -> None:
    """The job is queued: a GET would stay open."""
    address = f"{served}/v1/jobs/{concept['jobs'][0]['id']}/events"
    with httpx.Client(headers={"Authorization": f"Bearer {new_key()}"}, trust_env=False, timeout=10) as theirs:
        for _ in range(2):  # the connection stays usable
            answer = theirs.head(address)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert theirs.head(f"{served}/v1/concepts/{concept['id']}/references/1").headers["content-type"] == "image/png"


def test_head_where_there_is_no_get_is_refused(client: TestClient) -> None:
    assert client.head("/v1/generate").status_code == 405
    assert client.head("/v1/none").status_code == 404
