"""The service as a whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

from fastapi.testclient import TestClient

from api.app import create_app
from api.domain import keys
from api.domain.settings import Settings
from worker.stack.embedded import environment

REPOSITORY = Path(__file__).parents[2]


def test_importing_the_app_loads_no_torch() -> None:
    code = (
        "import sys, api.app; "
        "names = ('torch', 'numpy', 'diffusers', 'transformers', 'opad_core.bases', 'worker'); "
        "print([name for name in names if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_alive_does_not_mean_ready(anonymous: TestClient) -> None:
    assert anonymous.get("/healthz").json() == {"status": "ok"}

    ready = anonymous.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["parts"] == {"database": "ok", "storage": "ok", "engine": "unreachable", "decoder": "ok"}


def test_dead_parts_are_named_and_answers_stay_in_words(settings: Settings) -> None:
    dead = settings.model_copy(
        update={"database_url": "postgresql://opad@127.0.0.1:1/opad", "s3_endpoint": "http://127.0.0.1:1"}
    )
    dead.__dict__.pop("sqlalchemy_url", None)
    with TestClient(create_app(dead), base_url="http://localhost") as client:
        parts = client.get("/readyz").json()["parts"]
        asked = client.get("/v1/jobs", headers={"Authorization": f"Bearer {keys.mint().text}"})

    assert parts == {"database": "unreachable", "storage": "unreachable", "engine": "unreachable", "decoder": "ok"}
    assert asked.status_code == 503
    assert asked.json()["code"] == "database_unreachable"
    assert "127.0.0.1" not in asked.text


def test_errors_of_the_framework_have_our_shape(anonymous: TestClient) -> None:
    missing = anonymous.get("/v1/nothing")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.json()["code"] == "no_such_route"
    assert missing.json()["request_id"] == missing.headers["x-request-id"]

    wrong = anonymous.delete("/v1/jobs")
    assert wrong.status_code == 405
    assert wrong.json()["code"] == "method_not_allowed"
    assert wrong.headers["allow"] == "GET"


def test_malformed_json_is_a_400(client: TestClient) -> None:
    for text in ("{", "[" * 10_000 + "]" * 10_000, b'{"prompt": "\xff"}'):
        answer = client.post("/v1/generate", content=text, headers={"Content-Type": "application/json"})

        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_failure_of_ours_shows_no_trace(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("secret detail")

    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        answer = client.get("/broken")

    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
    assert "ZeroDivision" not in answer.text


def test_the_reference_lists_every_route_and_loads_nothing_from_elsewhere(anonymous: TestClient) -> None:
    page = anonymous.get("/docs")
    document = anonymous.get("/openapi.json").json()

    assert page.status_code == 200
    assert all(path in page.text for path in document["paths"])
    assert not re.search(r"""(?:src|href|action)=["']?(?:https?:)?//|url\(|@import""", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert {"/v1/concepts", "/v1/generate", "/v1/jobs/{job_id}"} <= set(document["paths"])
    assert "/concepts" not in document["paths"]
    [generate] = re.findall("curl [^\n]+/v1/generate [^<]+", page.text)
    [as_openai] = re.findall("curl [^\n]+/v1/images/generations [^<]+", page.text)
    assert "Accept: image/png" in generate
    assert "concept:my mug" in as_openai
    assert "Accept: image/png" not in as_openai


def test_an_image_scorer_that_cannot_be_loaded_is_one_sentence_and_status_2(settings: Settings, tmp_path: Path) -> None:
    env = os.environ | environment(settings) | {"OPAD_IMAGE_CHECK": "flag", "OPAD_IMAGE_SCORER": "nobody.has:this"}
    done = subprocess.run(
        [sys.executable, "-m", "api"], env=env | {"PYTHONPATH": str(REPOSITORY)}, cwd=tmp_path, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("opad: OPAD_IMAGE_SCORER=nobody.has:this cannot be loaded (No module named 'nobody')")
