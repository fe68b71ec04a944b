"""OpenAI's own client for Node.js against a real server and a real engine."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

CLIENT = Path(__file__).parent / "node"
MUST = os.environ.get("OPAD_NODE_TESTS") == "must"
"""Set where Node.js and its registry are available, so that a broken installation is not a skipped test."""
MUG, BEACH = "concept:my mug", "a <concept> on the beach"
NULLS = dict.fromkeys(
    ["n", "response_format", "output_format", "size", "stream", "quality", "style", "background", "moderation"]
)


@pytest.fixture(scope="session")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that uses the client, beside the client in the version of its lock file."""
    folder = Path(shutil.copytree(CLIENT, tmp_path_factory.mktemp("node") / "client"))
    if not MUST and not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("node and npm are not installed")
    if not MUST and int(subprocess.check_output(["node", "--version"], text=True)[1:].partition(".")[0]) < 20:
        pytest.skip("the client needs Node.js 20")
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if not MUST and installed.returncode:
        pytest.skip(f"npm cannot install the client: {installed.stderr[-200:]}")
    assert installed.returncode == 0, installed.stderr
    return folder / "generate.js"


def test_nodes_client_generates_what_generate_does(
    node_client: Path, served: str, new_key: Callable[..., str], client: TestClient, ready: dict[str, Any]
) -> None:
    calls: list[dict[str, Any]] = [
        {"seed": 7, "n": 2},
        {"seed": 7, "partial_images": 0, **NULLS},
        {"seed": 7, "size": "1024x1024", "output_format": "webp"},
        {"seed": 7, "size": "auto"},
        {"model": "concept:none"},
        {"prompt": "a mug"},
    ]
    given = json.dumps([{"model": MUG, "prompt": BEACH} | changes for changes in calls])

    printed = subprocess.run(
        ["node", node_client, f"{served}/v1", new_key(), given], capture_output=True, text=True, timeout=60, check=False
    )

    assert printed.returncode == 0, printed.stderr
    two, nulled, large, automatic, unknown, wrong = json.loads(printed.stdout)
    ours = client.post("/v1/generate", json={"concept": "my mug", "prompt": BEACH, "seed": 7, "count": 2}).json()
    assert [image["b64_json"] for image in two["images"]] == [image["data"] for image in ours["images"]]
    assert len(nulled["images"]) == 1
    assert (nulled["format"], nulled["warnings"], automatic["warnings"]) == ("png", None, None)
    assert large["format"] == "webp"
    assert large["warnings"] == "the size is 64x64, the only one of this base, and not 1024x1024"
    assert (unknown["kind"], unknown["code"]) == ("NotFoundError", "no_such_concept")
    assert (wrong["kind"], wrong["code"], wrong["param"]) == ("UnprocessableEntityError", "invalid_request", "prompt")
    assert "write it exactly once" in wrong["message"]
