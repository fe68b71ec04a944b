"""`decoder` of a request: the full decoder, or the base's fast one."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.domain.database import Sessions
from api.domain.tables import ServedBase
from tests.api.services import replace_services

ASKED = {"concept": "my mug", "prompt": "a <concept> on the beach", "seed": 7}
REASON = "the base nano has no fast decoder: it would gain nothing"

pytestmark = pytest.mark.usefixtures("ready")


@pytest.fixture
def without_fast(sessions: Sessions) -> None:
    with sessions.begin() as db:
        db.execute(update(ServedBase).values(no_fast_decoder=REASON))


def generate(client: TestClient, **changes: Any) -> Any:
    answer = client.post("/v1/generate", json=ASKED | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def prefer_fast(client: TestClient) -> None:
    replace_services(client, settings=client.app.state.services.settings.model_copy(update={"decoder": "fast"}))


def test_the_decoder_decides_the_image(client: TestClient) -> None:
    default, full, fast = generate(client), generate(client, decoder="full"), generate(client, decoder="fast")
    assert [answer["decoder"] for answer in (default, full, fast)] == ["full", "full", "fast"]
    assert default["images"][0]["data"] == full["images"][0]["data"] != fast["images"][0]["data"]


def test_the_setting_is_the_default_where_the_base_has_it(client: TestClient, sessions: Sessions) -> None:
    prefer_fast(client)
    assert generate(client)["images"][0]["data"] == generate(client, decoder="fast")["images"][0]["data"]
    assert generate(client, decoder="full")["decoder"] == "full"
    with sessions.begin() as db:
        db.execute(update(ServedBase).values(no_fast_decoder=REASON))
    assert generate(client)["decoder"] == "full"


def test_a_base_without_one_is_named_in_the_refusal(client: TestClient, without_fast: None) -> None:
    answer = client.post("/v1/generate", json=ASKED | {"decoder": "fast"})
    assert answer.status_code == 422
    problem = answer.json()
    assert (problem["code"], problem["detail"]) == ("no_fast_decoder", REASON)
    assert problem["errors"] == [{"field": "decoder", "message": REASON}]
    assert client.get("/v1/base").json()["no_fast_decoder"] == REASON
    assert generate(client, decoder="full")["decoder"] == "full"


def test_an_unknown_decoder_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/generate", json=ASKED | {"decoder": "best"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "decoder"


@pytest.mark.parametrize("kept_afterwards", [False, True])
def test_a_stored_image_is_generated_again_by_its_settings(client: TestClient, kept_afterwards: bool) -> None:
    [image] = generate(client, decoder="fast", store=not kept_afterwards)["images"]
    if kept_afterwards:
        image["id"] = client.post("/v1/images", json={"receipt": image["receipt"], "data": image["data"]}).json()["id"]
    settings = client.get(f"/v1/images/{image['id']}").json()["settings"]
    assert settings["decoder"] == "fast"
    settings = {name: value for name, value in settings.items() if name != "concept"}
    again = client.post("/v1/generate", json=settings).json()
    assert again["images"][0]["data"] == image["data"]


def test_openais_route_takes_the_installations_default(client: TestClient) -> None:
    prefer_fast(client)
    body = {"model": "concept:my mug", "prompt": ASKED["prompt"], "seed": 7, "quality": "high"}
    [image] = client.post("/v1/images/generations", json=body).json()["data"]
    assert image["b64_json"] == generate(client, decoder="fast")["images"][0]["data"]


def test_the_playground_offers_the_decoders_of_the_base(
    client: TestClient, new_key: Callable[..., str], sessions: Sessions
) -> None:
    prefer_fast(client)
    assert client.post("/dashboard/sign-in", data={"key": new_key()}, follow_redirects=False).status_code == 303
    page = client.get("/dashboard/playground").text
    assert '<select name="decoder"><option >full</option><option selected>fast</option></select>' in page
    with sessions.begin() as db:
        db.execute(update(ServedBase).values(no_fast_decoder=REASON))
    page = client.get("/dashboard/playground").text
    assert 'name="prompt"' in page
    assert 'name="decoder"' not in page
