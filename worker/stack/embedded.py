"""The embedded servers: start those that no setting names, and give other processes their addresses."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from api.domain.settings import Settings
from api.domain.storage import ObjectMissing, Storage, StorageUnavailable
from worker.stack import object_store, servers
from worker.stack.home import Home
from worker.stack.supervision import Service, Supervisor

_PROBE_KEY = "system/readable"


def start_servers(settings: Settings, supervisor: Supervisor, *, durable: bool = True) -> Settings:
    """Start the servers whose address is not set. Return the settings with all addresses. Raises LocalError."""
    home = supervisor.home
    first: list[Service] = []
    later: list[list[Service]] = []
    complete = settings.model_copy(update={"home": home.folder})
    if settings.database_url is None:
        service, complete.database_url = servers.postgresql(home, durable=durable)
        first.append(service)
    if settings.redis_url is None:
        service, complete.redis_url = servers.valkey(home)
        first.append(service)
    if settings.s3_endpoint is None:
        (masters, *later), complete.s3_endpoint = object_store.seaweedfs(home)
        first += masters
        complete.s3_access_key, complete.s3_bucket = object_store.S3_ACCESS_KEY, object_store.S3_BUCKET
        complete.s3_secret_key = SecretStr(home.secret("s3"))
        s3 = later[-1][0]
        later[-1] = [dataclasses.replace(s3, ready=_ready_when_objects_are_readable(s3.ready, Storage(complete)))]
    for services in [first, *later]:
        supervisor.start(*services)
    return complete


def _ready_when_objects_are_readable(answers: Callable[[], str | None], storage: Storage) -> Callable[[], str | None]:
    """Return a check that reads an object, since SeaweedFS answers some moments before it finds its bucket and volumes.

    Every start reads the same object, which shows that objects from earlier starts are readable too.
    """
    content = b"written at the first start and read at every start"
    digest = hashlib.sha256(content).hexdigest()

    def ready() -> str | None:
        description = answers()
        if description is None:
            return None
        try:
            storage.ensure_bucket()
            storage.put_once(_PROBE_KEY, content, digest)
            storage.get(_PROBE_KEY, digest)
        except (StorageUnavailable, ObjectMissing):
            return None
        return description

    return ready


@contextmanager
def local_servers(settings: Settings, *, say: Callable[[str], None], durable: bool = True) -> Iterator[Settings]:
    """Run only the servers for the length of the block. The calling thread must live as long."""
    home = Home(settings.home)
    home.open()
    supervisor = Supervisor(home, say)
    try:
        yield start_servers(settings, supervisor, durable=durable)
    finally:
        supervisor.stop()
        home.close()


def environment(settings: Settings) -> dict[str, str]:
    """Return the settings as environment variables for another process, including secrets."""
    plain = settings.model_dump(mode="json", exclude_none=True)
    plain["s3_secret_key"] = settings.s3_secret_key.get_secret_value()
    return {
        f"OPAD_{name.upper()}": value if isinstance(value, str) else json.dumps(value) for name, value in plain.items()
    }
