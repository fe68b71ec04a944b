"""The embedded stack: the servers that no setting names, and what the processes beside them must know."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from api.domain.settings import Settings
from api.domain.storage import ObjectMissing, Storage, StorageUnavailable
from worker import servers
from worker.home import Home, LocalError
from worker.supervision import Part, Supervisor

_PROBE_KEY = "system/readable"
_SECONDS_FOR_OBJECTS = 30


def start_servers(settings: Settings, supervisor: Supervisor, *, durable: bool = True) -> Settings:
    """Start the servers whose address is not set; the settings with every address filled in. Raises LocalError."""
    home = supervisor.home
    parts: list[Part] = []
    complete = settings.model_copy(update={"home": home.folder})
    if settings.database_url is None:
        part, complete.database_url = servers.postgresql(home, durable=durable)
        parts.append(part)
    if settings.redis_url is None:
        part, complete.redis_url = servers.valkey(home)
        parts.append(part)
    if settings.s3_endpoint is None:
        part, complete.s3_endpoint = servers.seaweedfs(home)
        complete.s3_access_key, complete.s3_bucket = servers.S3_ACCESS_KEY, servers.S3_BUCKET
        complete.s3_secret_key = SecretStr(home.secret("s3"))
        parts.append(part)
    supervisor.start(*parts)
    if settings.s3_endpoint is None:
        _wait_for_objects(Storage(complete))
    return complete


def _wait_for_objects(storage: Storage) -> None:
    """SeaweedFS answers some moments before it finds its bucket and what its volumes hold: until then a read fails.

    The same object is read at every start, so that what was stored before is known to be readable too.
    """
    content = b"written at the first start and read at every start"
    digest = hashlib.sha256(content).hexdigest()
    give_up = time.monotonic() + _SECONDS_FOR_OBJECTS
    while True:
        try:
            storage.ensure_bucket()
            storage.put_once(_PROBE_KEY, content, digest)
            storage.get(_PROBE_KEY, digest)
            return
        except (StorageUnavailable, ObjectMissing) as error:
            if time.monotonic() > give_up:
                raise LocalError(f"the object store started but does not give back what it holds: {error}") from error
            time.sleep(0.2)  # it says nothing when it becomes ready


@contextmanager
def local_servers(settings: Settings, *, say: Callable[[str], None], durable: bool = True) -> Iterator[Settings]:
    """The servers alone, in the charge of this thread, for as long as the block runs."""
    home = Home(settings.home)
    home.open()
    supervisor = Supervisor(home, say)
    try:
        yield start_servers(settings, supervisor, durable=durable)
    finally:
        supervisor.stop()
        home.close()


def environment(settings: Settings) -> dict[str, str]:
    """The settings as the environment variables that `Settings` reads in another process, secrets included."""
    plain = settings.model_dump(mode="json", exclude_none=True)
    plain["s3_secret_key"] = settings.s3_secret_key.get_secret_value()
    return {
        f"OPAD_{name.upper()}": value if isinstance(value, str) else json.dumps(value) for name, value in plain.items()
    }
