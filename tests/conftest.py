"""Real servers for the whole session. Each test that needs them gets a new migrated database and an empty bucket."""

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import boto3
import psycopg
import pytest
from botocore.config import Config
from psycopg import sql

from api.domain.settings import Settings
from api.domain.storage import Storage
from migrations.run import migrate
from worker.stack.embedded import local_servers

for _name in (
    "celery.app.amqp", "celery.backends.base", "celery.bootsteps", "celery.fixups.django", "kombu.mixins",
    "kombu.transport.redis",
):  # fmt: skip
    importlib.import_module(_name)  # imported later by a thread, they add loggers while pytest iterates over them

_numbers = count(1)
_ended: dict[str, str] = {}
"""By server, the database of its last test, whose connections are closing. To drop it at once takes 0.1 s more."""
_KEPT_SERVERS = os.environ.get("OPAD_TEST_SERVERS")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    for name in [name for name in os.environ if name.startswith("OPAD_")]:
        del os.environ[name]
    os.environ["OPAD_COMPILE"] = "false"  # an engine would compile beside the tests, on the same cores


def fast_folder() -> str:
    """Return a folder in memory if it has room and may hold programs, else /tmp.

    Each test copies and removes a database of hundreds of files. ext4 takes longer for each, because it avoids the
    inodes of files that were removed a moment ago: up to half of the processors' time was the kernel's.
    """
    try:
        memory = os.statvfs("/dev/shm")
    except OSError:
        return "/tmp"
    is_roomy = memory.f_bavail * memory.f_frsize >= 4 << 30
    usable = is_roomy and not memory.f_flag & os.ST_NOEXEC and os.access("/dev/shm", os.W_OK)
    return "/dev/shm" if usable else "/tmp"


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's account can enter if the tests run as root, unlike pytest's folders."""
    folder = Path(tempfile.mkdtemp(prefix="opad-test-", dir=fast_folder()))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def stack(short_folder: Path) -> Iterator[Settings]:
    """PostgreSQL, Valkey and SeaweedFS with the database `template`. `tests.mutants` shares them between sessions."""
    if _KEPT_SERVERS is not None:
        kept = Settings(**json.loads(_KEPT_SERVERS))
        yield kept
        with psycopg.connect(kept.database_url or "", autocommit=True) as connection:
            _drop_ended(kept, connection)
        return
    with running_servers(short_folder) as settings:
        yield settings


@contextmanager
def running_servers(folder: Path) -> Iterator[Settings]:
    ours = Settings(home=folder / "stack", database_url=None, redis_url=None, s3_endpoint=None)
    with local_servers(ours, say=lambda line: None, durable=False) as settings:
        make_template(settings)
        yield settings


def make_template(settings: Settings) -> None:
    """Create the migrated database that each test gets a copy of. Nothing connects to it afterwards."""
    with psycopg.connect(settings.database_url or "", autocommit=True) as connection:
        connection.execute("CREATE DATABASE template")
    migrate(Settings(database_url=_at_database(settings, "template")).sqlalchemy_url)
    Storage(settings).ensure_bucket()  # the server creates it some moments after it answers


@pytest.fixture
def settings(stack: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings with an empty database, an empty bucket, and the test's own folder as `home`."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(stack.database_url or "", autocommit=True) as connection:
        _drop_ended(stack, connection)
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template").format(sql.Identifier(name)))
    _empty_bucket(stack)
    yield stack.model_copy(update={"database_url": _at_database(stack, name), "home": tmp_path})
    with psycopg.connect(stack.database_url or "", autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
    _ended[stack.database_url or ""] = name


def _drop_ended(stack: Settings, connection: "psycopg.Connection[Any]") -> None:
    name = _ended.pop(stack.database_url or "", None)
    if name is not None:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _at_database(settings: Settings, name: str) -> str:
    return urlunsplit(urlsplit(settings.database_url or "")._replace(path=f"/{name}"))


def _empty_bucket(settings: Settings) -> None:
    client = _bucket_client(
        settings.s3_endpoint, settings.s3_region, settings.s3_access_key, settings.s3_secret_key.get_secret_value()
    )
    for item in client.list_objects_v2(Bucket=settings.s3_bucket).get("Contents", []):
        client.delete_object(Bucket=settings.s3_bucket, Key=item["Key"])


@cache
def _bucket_client(endpoint: str | None, region: str, access_key: str, secret_key: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
