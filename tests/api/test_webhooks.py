from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from api.domain.database import Sessions
from tests.api.test_auth import bearer

URL = "https://93.184.216.34/opad"
"""A public address. The tests send nothing to it."""


@pytest.fixture
def webhook(client: TestClient) -> dict[str, Any]:
    answer = client.post("/v1/webhooks", json={"url": URL})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_webhook_shows_its_secret_once(client: TestClient, webhook: dict[str, Any]) -> None:
    path = f"/v1/webhooks/{webhook['id']}"

    assert webhook["secret"].startswith("whsec_")
    assert webhook["events"] == ["job.succeeded", "job.failed", "job.cancelled"]
    assert client.get(path).json() == {key: value for key, value in webhook.items() if key != "secret"}
    assert "whsec_" not in client.get("/v1/webhooks").text
    rotated = client.post(f"{path}/rotate", json={}).json()
    assert rotated["secret"] != webhook["secret"]
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
    actions = [item["action"] for item in client.get("/v1/audit").json()["items"]]
    assert actions == ["webhook.delete", "webhook.rotate", "webhook.create"]


@pytest.mark.parametrize(
    "url",
    [
        "http://93.184.216.34/", "https://127.0.0.1/", "https://169.254.169.254/latest/", "https://[::1]/",
        "https://[::ffff:10.0.0.1]/", "https://2130706433/", "https://localhost/", "https://no-such-name.invalid/",
        "https://user:password@93.184.216.34/",
    ],
)  # fmt: skip
def test_a_url_that_points_inside_is_refused(client: TestClient, url: str) -> None:
    answer = client.post("/v1/webhooks", json={"url": url})
    assert (answer.status_code, answer.json()["code"]) == (422, "webhook_url")
    assert client.get("/v1/webhooks").json()["items"] == []


def test_a_ping_is_a_message_like_others_and_can_be_sent_again(
    client: TestClient, webhook: dict[str, Any], sessions: Sessions
) -> None:
    path = f"/v1/webhooks/{webhook['id']}"
    ping = client.post(f"{path}/ping").json()
    assert (ping["event"], ping["state"], ping["log"]) == ("webhook.ping", "pending", [])
    assert ping["payload"]["data"] == {"webhook_id": webhook["id"]}
    with sessions.begin() as db:
        db.execute(text("UPDATE webhook_delivery SET state = 'failed', tries = 10, next_try_at = NULL"))

    again = client.post(f"{path}/deliveries/{ping['id']}/redeliver").json()

    assert (again["message_id"], again["state"]) == (ping["message_id"], "pending")
    assert again["next_try_at"] is not None
    assert client.post(f"{path}/deliveries/{uuid4()}/redeliver").status_code == 404
    (listed,) = client.get(f"{path}/deliveries").json()["items"]
    assert listed == again
    with sessions() as db:
        assert db.scalar(text("SELECT tries FROM webhook_delivery")) == 0, "a new round"


def test_deliveries_are_paginated(client: TestClient, webhook: dict[str, Any]) -> None:
    path = f"/v1/webhooks/{webhook['id']}"
    made = [client.post(f"{path}/ping").json()["id"] for _ in range(3)]
    first = client.get(f"{path}/deliveries", params={"limit": 2}).json()
    rest = client.get(f"{path}/deliveries", params={"limit": 2, "cursor": first["next"]}).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == made[::-1]
    assert rest["next"] is None


def test_a_disabled_webhook_sends_nothing_more(client: TestClient, webhook: dict[str, Any], sessions: Sessions) -> None:
    path = f"/v1/webhooks/{webhook['id']}"
    ping = client.post(f"{path}/ping").json()
    with sessions.begin() as db:
        db.execute(text("UPDATE webhook SET disabled_at = now()"))
    for answer in (client.post(f"{path}/ping"), client.post(f"{path}/deliveries/{ping['id']}/redeliver")):
        assert (answer.status_code, answer.json()["code"]) == (409, "webhook_disabled")


def test_the_number_of_webhooks_is_limited(client: TestClient, webhook: dict[str, Any]) -> None:
    for _ in range(19):
        assert client.post("/v1/webhooks", json={"url": URL}).status_code == 201
    assert client.post("/v1/webhooks", json={"url": URL}).json()["code"] == "webhook_quota"


def test_a_cancelled_job_leaves_its_message_and_an_erased_concept_takes_it_along(
    client: TestClient, webhook: dict[str, Any], concept: dict[str, Any]
) -> None:
    path = f"/v1/webhooks/{webhook['id']}/deliveries"
    client.post(f"/v1/jobs/{concept['jobs'][0]['id']}/cancel")
    (message,) = client.get(path).json()["items"]
    assert message["payload"]["data"]["concept_id"] == concept["id"]
    client.delete(f"/v1/concepts/{concept['id']}")
    assert client.get(path).json()["items"] == []


def test_changing_them_needs_the_scope_train(client: TestClient, new_key: Callable[..., str]) -> None:
    reader = bearer(new_key(scopes=("read",)))
    assert client.get("/v1/webhooks", headers=reader).status_code == 200
    assert client.post("/v1/webhooks", json={"url": URL}, headers=reader).status_code == 403
