import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import boto3
import pytest
import uvicorn
from botocore.config import Config
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from api.__main__ import make_server
from api.app import create_app
from api.domain import keys
from api.domain.database import Sessions, make_sessions
from api.domain.settings import Settings
from api.domain.tables import ApiKey, Concept, Job, Owner, Reference, ServedBase
from tests.api.reference_images import reference
from tests.job_life import wait_until

NOUNS = ["cat", "dog", "mug", "rabbit", "robot"]
WORDS = ["a", "photo", "of", "on", "the", "beach"]


@pytest.fixture
def api_settings(settings: Settings) -> Settings:
    """Settings with a small upload limit, so that a test exceeds it quickly."""
    return settings.model_copy(update={"max_upload_mb": 1})


@pytest.fixture
def sessions(settings: Settings) -> Sessions:
    return make_sessions(settings)


@pytest.fixture
def new_key(sessions: Sessions) -> Callable[..., str]:
    """Create a key for the owner with this name, with these scopes and columns."""

    def make(owner_name: str = "alice", scopes: tuple[str, ...] = ("admin",), **columns: Any) -> str:
        key = keys.mint()
        with sessions.begin() as db:
            owner = db.scalar(select(Owner).where(Owner.name == owner_name))
            if owner is None:
                owner = Owner(name=owner_name)
                db.add(owner)
                db.flush()
            db.add(ApiKey(owner_id=owner.id, label="test", secret_sha256=key.sha256, scopes=list(scopes), **columns))
        return key.text

    return make


@pytest.fixture
def base(sessions: Sessions) -> None:
    """Add the row that an engine announces when it starts."""
    with sessions.begin() as db:
        db.add(ServedBase(name="nano", resolution=64, nouns=NOUNS, words=WORDS, manifest_sha256="0" * 64))


@pytest.fixture
def anonymous(api_settings: Settings) -> Iterator[TestClient]:
    address = (str(uuid4()), 50_000)  # sign-ins are counted per address, and the tests share the counters
    with TestClient(
        create_app(api_settings), base_url="http://localhost", follow_redirects=False, client=address
    ) as client:
        yield client


@pytest.fixture
def client(anonymous: TestClient, new_key: Callable[..., str], base: None) -> TestClient:
    """A client with a key of alice, who has every scope."""
    anonymous.headers["Authorization"] = f"Bearer {new_key()}"
    return anonymous


@pytest.fixture
def server(api_settings: Settings) -> Iterator[uvicorn.Server]:
    """A real server over the same database, for streams and for other HTTP clients."""
    server = make_server(api_settings.model_copy(update={"port": 0}))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, seconds=60, what="the server's start")
    yield server
    server.should_exit = True
    thread.join()


@pytest.fixture
def served(server: uvicorn.Server) -> str:
    """The server's address."""
    host, port = server.servers[0].sockets[0].getsockname()
    return f"http://{host}:{port}"


@pytest.fixture
def upload(client: TestClient) -> Callable[..., Any]:
    """`POST /v1/concepts` with these files (bytes, or name and bytes) and fields beside the usual ones."""

    def post(*files: bytes | tuple[str, bytes], headers: dict[str, str] | None = None, **fields: str) -> Any:
        named = [file if isinstance(file, tuple) else (f"photo{n}.jpg", file) for n, file in enumerate(files, 1)]
        return client.post(
            "/v1/concepts",
            files=[("images", (name, data, "application/octet-stream")) for name, data in named],
            data={"name": "my mug", "class_noun": "mug", "consent": "true", **fields},
            headers=headers,
        )

    return post


@pytest.fixture
def concept(upload: Callable[..., Any]) -> dict[str, Any]:
    """A concept of alice whose job is queued."""
    answer = upload(reference(1), reference(2), reference(3))
    assert answer.status_code == 202, answer.text
    return answer.json()["concept"]


@pytest.fixture
def stored(settings: Settings, sessions: Sessions) -> Callable[[], dict[str, int]]:
    """Count what uploads leave in every table and in the store."""
    client = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )

    def count() -> dict[str, int]:
        with sessions() as db:
            rows = {
                table.__tablename__: db.scalar(select(func.count()).select_from(table))
                for table in (Concept, Job, Reference)
            }
        return {**rows, "objects": client.list_objects_v2(Bucket=settings.s3_bucket)["KeyCount"]}

    return count


@pytest.fixture
def set_job(sessions: Sessions) -> Callable[..., None]:
    """Set columns of a job, as a worker would."""

    def put(job_id: str, **columns: Any) -> None:
        with sessions.begin() as db:
            job = db.get_one(Job, UUID(job_id))
            for name, value in columns.items():
                setattr(job, name, value)

    return put
