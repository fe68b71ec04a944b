"""Images keep their credentials on every way from a signing engine to a client."""

import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

from api.domain.credentials import make_credentials
from api.domain.settings import Settings
from api.engine_client import EngineClient
from tests.api.services import replace_services
from tests.job_life import wait_until
from worker.inference.app import create_app


@pytest.fixture
def signing(client: TestClient, api_settings: Settings, base_folder: Path) -> Iterator[TestClient]:
    """The client of an installation whose engine signs."""
    make_credentials(api_settings.signing_certificates, api_settings.signing_key)
    settings = api_settings.model_copy(update={"base": str(base_folder), "device": "cpu", "provenance": "signed"})
    engine = uvicorn.Server(uvicorn.Config(create_app(settings, bind="test"), port=0, log_config=None, lifespan="on"))
    thread = threading.Thread(target=engine.run)
    thread.start()
    wait_until(lambda: engine.started, seconds=60, what="the engine's start")
    host, port = engine.servers[0].sockets[0].getsockname()
    replace_services(client, engines=EngineClient([f"http://{host}:{port}"], timeout_seconds=60))
    yield client
    engine.should_exit = True
    thread.join()


def test_openais_route_and_a_kept_image_are_signed(signing: TestClient, ready: dict[str, Any]) -> None:
    prompt = "a <concept> on the beach"
    body = {"model": "concept:my mug", "prompt": prompt, "seed": 7}
    [openais] = signing.post("/v1/images/generations", json=body).json()["data"]
    asked = {"concept": "my mug", "prompt": prompt, "seed": 8, "store": True}
    [kept] = signing.post("/v1/generate", json=asked).json()["images"]
    files = {
        "7": base64.b64decode(openais["b64_json"]),
        "8": signing.get(f"/v1/images/{kept['id']}/file").content,
    }

    for seed, file in files.items():
        found = signing.post("/v1/verify", files={"image": ("image.png", file)}).json()
        assert (found["credentials"], found["ours"], found["origin"]["seed"]) == ("valid", True, seed)
        assert found["concept"] == {"id": ready["id"], "name": "my mug"}
