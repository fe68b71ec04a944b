"""The embedded stack: the servers that no setting names, and what the processes beside them must know."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from api.domain.settings import Settings
from worker import servers
from worker.home import Home
from worker.supervision import Supervisor


def start_servers(settings: Settings, supervisor: Supervisor, *, durable: bool = True) -> Settings:
    """Start the servers whose address is not set; the settings with every address filled in. Raises LocalError."""
    home, found = supervisor.home, {}
    if settings.database_url is None:
        part, address = servers.postgresql(home, durable=durable)
        supervisor.start(part)
        found["database_url"] = address
    if settings.redis_url is None:
        part, address = servers.valkey(home)
        supervisor.start(part)
        found["redis_url"] = address
    if settings.s3_endpoint is None:
        part, address = servers.seaweedfs(home)
        supervisor.start(part)
        found["s3_endpoint"] = address
        found["s3_access_key"], found["s3_bucket"] = servers.S3_ACCESS_KEY, servers.S3_BUCKET
    complete = settings.model_copy(update={**found, "home": home.folder})
    if "s3_endpoint" in found:
        complete.s3_secret_key = SecretStr(home.secret("s3"))
    return complete


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
    """The addresses as the environment variables that `Settings` reads in another process."""
    return {
        "OPAD_HOME": str(settings.home),
        "OPAD_DATABASE_URL": settings.database_url or "",
        "OPAD_REDIS_URL": settings.redis_url or "",
        "OPAD_S3_ENDPOINT": settings.s3_endpoint or "",
        "OPAD_S3_ACCESS_KEY": settings.s3_access_key,
        "OPAD_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "OPAD_S3_BUCKET": settings.s3_bucket,
        "OPAD_ENGINE_URLS": json.dumps(settings.engine_urls),
    }
