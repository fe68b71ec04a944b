"""A real engine process for the tests of the api. Its base has random weights, which do not matter there."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import httpx
import psycopg
import pytest

from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.storage import Storage, bundle_key
from api.domain.tables import Bundle, JobState
from opad_core.bases.loading import load_base
from tests.engine_process import engine_process
from tests.random_base import add_fast_decoder, write_random_base
from tests.worker.inference.conftest import random_bundle


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_random_base(tmp_path_factory.mktemp("base"))
    add_fast_decoder(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(base_folder: Path) -> bytes:
    return random_bundle(load_base(str(base_folder), device="cpu"), seed=1)


@pytest.fixture(scope="session")
def engine_url(stack: Settings, base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An engine with its own database, so that it outlives those of the tests."""
    folder = tmp_path_factory.mktemp("engine")
    database = f"of_{folder.name}"  # another package uses this fixture too
    with psycopg.connect(stack.database_url or "", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database} TEMPLATE template")
    database_url = urlunsplit(urlsplit(stack.database_url or "")._replace(path=f"/{database}"))
    settings = stack.model_copy(update={"home": folder, "base": str(base_folder), "database_url": database_url})
    address = folder / "engine.sock"
    with engine_process(settings, address):
        until_it_listens = httpx.HTTPTransport(uds=str(address), retries=8)
        with httpx.Client(transport=until_it_listens, base_url="http://engine") as client:
            assert client.get("/readyz").status_code == 200
        yield f"unix:{address}"


@pytest.fixture
def api_settings(settings: Settings, engine_url: str) -> Settings:
    return settings.model_copy(update={"engine_urls": [engine_url], "generate_timeout_seconds": 60})


@pytest.fixture
def ready(
    concept: dict[str, Any], bundle: bytes, sessions: Sessions, set_job: Callable[..., None], settings: Settings
) -> dict[str, Any]:
    """The concept after its training."""
    sha256 = hashlib.sha256(bundle).hexdigest()
    Storage(settings).put_once(bundle_key(sha256), bundle, sha256)
    job_id = concept["jobs"][0]["id"]
    with sessions.begin() as db:
        db.add(
            Bundle(
                job_id=UUID(job_id),
                concept_id=UUID(concept["id"]),
                version=1,
                key=bundle_key(sha256),
                sha256=sha256,
                size=len(bundle),
            )
        )
    set_job(job_id, state=JobState.succeeded)
    return concept
