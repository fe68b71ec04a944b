"""Versions, settings and checks of this installation."""

import platform
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field, SecretStr
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from api.auth import Admin, Reader
from api.domain import audit, base_checks
from api.domain.credentials import trusted_certificates
from api.domain.replaced_bases import present_base
from api.domain.tables import BaseCheck, Heartbeat, RetentionSweep, ServedBase
from api.domain.tables.heartbeat import HEARTBEAT_TIMEOUT
from api.routes import health
from api.routes.storage import require_operator
from api.schemas import Out
from api.services import Services, ServicesDep, SessionDep
from api.vocabulary import no_base, served_base

router = APIRouter(tags=["system"])

_PACKAGES = ("fastapi", "starlette", "uvicorn", "sqlalchemy", "psycopg", "celery", "boto3", "pillow", "pydantic")
_HIDDEN = "set, not shown"
_ADDRESSES = ("database_url", "redis_url")
"""Settings whose URL may contain a password."""


class BaseOut(Out):
    name: str
    resolution: int = Field(description="side of an image in pixels")
    nouns: list[str] | None = Field(description="the class nouns that it knows; null if it knows all")
    words: list[str] | None = Field(description="the words that it knows in prompts; null if it knows all")
    limits: str | None = Field(description="what it cannot learn from photos; null if nothing is known")
    no_fast_decoder: str | None = Field(
        description="why `decoder: fast` is refused; null if the base has a fast decoder"
    )
    presets: dict[str, dict[str, Any]] = Field(description="every setting of each preset of opad on this base")
    methods: dict[str, dict[str, Any]] = Field(description="every setting of each other method on this base")


class CheckOut(Out):
    name: str
    ok: bool
    message: str


class AnswerOut(Out):
    check: str
    outcome: Literal["passed", "failed", "skipped"]
    sentence: str = Field(description="what was found; for a failed check also what to do, for a skipped one why")


class BaseCheckOut(Out):
    """The check of a base's weights, which a trainer host runs once when it has no job."""

    base: str
    base_sha256: str
    state: Literal["waiting", "running", "checked"]
    host: str | None = Field(description="the trainer host that checks the base, or checked it last")
    checked_at: datetime | None
    answers: list[AnswerOut] = Field(description="of the last check; empty before the first one")


class SystemOut(Out):
    version: str
    python: str
    packages: dict[str, str]
    database_version: str
    revision: str = Field(description="migration of the database's tables")
    settings: dict[str, Any] = Field(description="secrets, and addresses that may contain one, are not shown")
    checks: list[CheckOut]
    base_check: BaseCheckOut | None = Field(description="null until an engine has announced its base")


class AuditVerification(Out):
    intact: bool
    message: str


@router.get("/base", response_model=BaseOut)
async def read_base(services: ServicesDep, who: Reader, session: SessionDep) -> BaseOut:
    """Read the base of this installation: its image size, words, presets and methods."""
    base = await served_base(session, services.settings.base)
    return BaseOut(
        name=base.name,
        resolution=base.resolution,
        nouns=base.nouns,
        words=base.words,
        limits=base.limits,
        no_fast_decoder=base.no_fast_decoder,
        presets=base.presets or {},
        methods=base.methods or {},
    )


@router.get("/system", response_model=SystemOut)
async def read_system(request: Request, services: ServicesDep, who: Admin, session: SessionDep) -> SystemOut:
    """Read versions, the database's revision, settings without secrets, and whether each part answers."""
    require_operator(who)
    return SystemOut(
        version=request.app.version,
        python=platform.python_version(),
        packages={name: version(name) for name in _PACKAGES},
        database_version=str(await session.scalar(text("SHOW server_version"))),
        revision=str(await session.scalar(text("SELECT version_num FROM alembic_version"))),
        settings={name: _shown(name, value) for name, value in services.settings.model_dump(mode="python").items()},
        checks=await _run_checks(services, session),
        base_check=await read_base_check(session),
    )


@router.post("/system/base-check", status_code=202, response_model=BaseCheckOut)
async def check_base_again(services: ServicesDep, who: Admin, session: SessionDep) -> BaseCheckOut:
    """Ask for another check of the base's weights. A trainer host runs it when it has no job; it takes some minutes."""
    require_operator(who)
    await session.execute(base_checks.request())
    found = await read_base_check(session)
    if found is None:
        raise no_base(services.settings.base)
    return found


async def read_base_check(session: AsyncSession) -> BaseCheckOut | None:
    """Return the check of the base that an engine announced last, or None before that."""
    on_base = BaseCheck.base_sha256 == ServedBase.manifest_sha256
    query = present_base().outerjoin(BaseCheck, on_base).add_columns(BaseCheck)
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    base, check = row
    if check is None:
        check = BaseCheck()
    waits = check.checked_at is None or check.checked_at < check.requested_at
    return BaseCheckOut(
        base=base.name,
        base_sha256=base.manifest_sha256,
        state="running" if check.started_at is not None else "waiting" if waits else "checked",
        host=check.host,
        checked_at=check.checked_at,
        answers=[AnswerOut(**answer) for answer in check.answers or []],
    )


_REMEDIES = {
    "storage": "the object store does not answer: trainings and downloads fail; see OPAD_S3_ENDPOINT and its log",
    "database": "the database does not answer within three seconds; see its log",
    "engine": "no engine answers: no images are generated; see OPAD_ENGINE_URLS and the logs",
    "decoder": "the process that decodes uploads does not start: every upload is refused; run `opad doctor`",
    "broker": "the broker does not answer: trainings start later and rate limits are off; see OPAD_REDIS_URL",
    "trainer": "no trainer sent a heartbeat recently: jobs wait; start `python -m worker.host`",
    "reconciler": "it has not run for two nights: lost jobs stay lost; start `python -m worker.reconcile`",
}
"""The consequences of a missing part, and the remedy."""


async def _run_checks(services: Services, session: AsyncSession) -> list[CheckOut]:
    """Run those checks of `opad doctor` that the api can run."""
    trainers = select(Heartbeat.name).where(
        Heartbeat.kind == "trainer", Heartbeat.seen_at > func.now() - HEARTBEAT_TIMEOUT
    )
    recent = select(RetentionSweep.day).where(RetentionSweep.day >= func.current_date() - 2)
    found = {
        **await health.answering_parts(services),
        "broker": await services.limiter.answers(),
        "trainer": await session.scalar(trainers.limit(1)) is not None,
        "reconciler": await session.scalar(recent.limit(1)) is not None,
    }
    checks = [CheckOut(name=name, ok=fine, message="ok" if fine else _REMEDIES[name]) for name, fine in found.items()]
    wrong = await health.wrong_clocks(services)
    clocks = CheckOut(name="clocks", ok=not wrong, message="; ".join(wrong) or "ok")
    return [*checks, clocks, await run_in_threadpool(_check_certificate, services.settings.signing_certificates)]


def _check_certificate(path: Path) -> CheckOut:
    try:
        trusted_certificates(path)
    except ValueError as error:
        return CheckOut(name="certificate", ok=False, message=f"{error}: signed images are not recognized as ours")
    return CheckOut(name="certificate", ok=True, message="ok")


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr):
        return _HIDDEN if value.get_secret_value() else "not set"
    if name in _ADDRESSES:
        return _HIDDEN if value else "not set"
    return value if isinstance(value, (int, float, bool, list)) or value is None else str(value)


@router.get("/audit/verify", response_model=AuditVerification)
async def verify_audit(who: Admin, session: SessionDep) -> AuditVerification:
    """Check that every row of the audit log is unchanged and none is missing."""
    require_operator(who)
    found = await session.run_sync(audit.verify)
    return AuditVerification(intact=found.intact, message=found.message)
