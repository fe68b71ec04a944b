from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.domain import keys
from tests.api.reference_images import reference


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_without_a_good_key_the_answer_is_401_in_words(
    anonymous: TestClient, new_key: Callable[..., str], subtests: pytest.Subtests
) -> None:
    past = datetime.now(UTC) - timedelta(minutes=1)
    cases = {
        "none": ({}, "no_key"),
        "basic": ({"Authorization": "Basic YTpi"}, "no_key"),
        "mistyped": (bearer(new_key()[:-1] + "x"), "malformed_key"),
        "not ascii": ({"Authorization": "Bearer opk_live_\xe9".encode("latin-1")}, "malformed_key"),
        "never made": (bearer(keys.mint().text), "unknown_key"),
        "revoked": (bearer(new_key(revoked_at=past)), "unknown_key"),
        "expired": (bearer(new_key(expires_at=past)), "unknown_key"),
    }
    for name, (headers, code) in cases.items():
        with subtests.test(name):
            answer = anonymous.get("/v1/jobs", headers=headers)

            assert answer.status_code == 401
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["code"] == code


def test_a_key_does_what_its_scopes_say(client: TestClient, new_key: Callable[..., str]) -> None:
    generate_only = bearer(new_key(scopes=("generate",)))

    refused = client.post(
        "/v1/concepts",
        files=[("images", (f"{n}.jpg", reference(n))) for n in range(3)],
        data={"name": "x", "class_noun": "mug", "consent": "true"},
        headers=generate_only,
    )

    assert refused.status_code == 403
    assert refused.json()["code"] == "missing_scope"
    assert refused.json()["needed"] == "train"
    assert client.get("/v1/jobs", headers=generate_only).status_code == 403
    assert client.get("/v1/jobs", headers=bearer(new_key(scopes=("read",)))).status_code == 200


def test_what_belongs_to_another_owner_is_not_there(
    client: TestClient, new_key: Callable[..., str], concept: dict[str, Any], subtests: pytest.Subtests
) -> None:
    bob = bearer(new_key("bob"))
    job_id = concept["jobs"][0]["id"]
    calls = [
        ("GET", f"/v1/concepts/{concept['id']}", None),
        ("GET", f"/v1/concepts/{concept['id']}/references/1", None),
        ("GET", f"/v1/jobs/{job_id}", None),
        ("GET", f"/v1/jobs/{job_id}/preview", None),
        ("POST", f"/v1/jobs/{job_id}/cancel", None),
        ("POST", "/v1/generate", {"concept_id": concept["id"], "prompt": "a <concept>"}),
        ("POST", "/v1/generate", {"concept": concept["name"], "prompt": "a <concept>"}),
    ]
    for method, path, body in calls:
        with subtests.test(f"{method} {path}"):
            assert client.request(method, path, json=body, headers=bob).status_code == 404
    assert client.get("/v1/concepts", headers=bob).json()["items"] == []
    assert client.get("/v1/jobs", headers=bob).json()["items"] == []
    assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"
