"""What this installation is made of, and whether its parts answer."""

import platform
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field, SecretStr
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Admin, Reader
from api.domain import audit
from api.domain.tables import Heartbeat, RetentionSweep
from api.routes import health
from api.routes.overview import SILENT
from api.routes.storage import require_operator
from api.schemas import Out
from api.services import Services, ServicesDep, SessionDep
from api.vocabulary import served_base

router = APIRouter(tags=["system"])

_PACKAGES = ("fastapi", "starlette", "uvicorn", "sqlalchemy", "psycopg", "celery", "boto3", "pillow", "pydantic")
_HIDDEN = "set, not shown"
_ADDRESSES = ("database_url", "redis_url")
"""They may hold a password."""


class BaseOut(Out):
    name: str
    resolution: int = Field(description="side of a picture in pixels")
    nouns: list[str] | None = Field(description="the class nouns it knows; null when any will do")
    words: list[str] | None = Field(description="the words it knows in prompts; null when any will do")
    presets: dict[str, dict[str, Any]] = Field(description="every setting of each preset, as it is on this base")


class CheckOut(Out):
    name: str
    ok: bool
    message: str


class SystemOut(Out):
    version: str
    python: str
    packages: dict[str, str]
    database_version: str
    revision: str = Field(description="of the database's tables")
    settings: dict[str, Any] = Field(description="secrets and addresses that may hold one are not shown")
    checks: list[CheckOut]


class AuditVerification(Out):
    intact: bool
    message: str


@router.get("/base", response_model=BaseOut)
async def read_base(services: ServicesDep, who: Reader, session: SessionDep) -> BaseOut:
    """The base that concepts are learned on here: how large it draws, which words it knows."""
    base = await served_base(session, services.settings.base)
    return BaseOut(
        name=base.name, resolution=base.resolution, nouns=base.nouns, words=base.words, presets=base.presets or {}
    )


@router.get("/system", response_model=SystemOut)
async def read_system(request: Request, services: ServicesDep, who: Admin, session: SessionDep) -> SystemOut:
    """Versions, the database's revision, settings without their secrets, and whether each part answers."""
    require_operator(who)
    return SystemOut(
        version=request.app.version,
        python=platform.python_version(),
        packages={name: version(name) for name in _PACKAGES},
        database_version=str(await session.scalar(text("SHOW server_version"))),
        revision=str(await session.scalar(text("SELECT version_num FROM alembic_version"))),
        settings={name: _shown(name, value) for name, value in services.settings.model_dump(mode="python").items()},
        checks=await _examined(services, session),
    )


_REMEDIES = {
    "storage": "the object store does not answer: nothing is learned or downloaded; see OPAD_S3_ENDPOINT and its log",
    "database": "the database does not answer in three seconds; see its log",
    "engine": "no engine answers: nothing is drawn; see OPAD_ENGINE_URLS and the engines' logs",
    "broker": "the broker does not answer: trainings begin some seconds later, nobody's requests are counted",
    "trainer": "no trainer was heard of lately: jobs wait; start `python -m worker.host`",
    "reconciler": "it swept nothing for two nights: lost jobs are not found again; start `python -m worker.reconcile`",
}
"""What does not work without a part, and what to do."""


async def _examined(services: Services, session: AsyncSession) -> list[CheckOut]:
    """What the api can see of what `opad doctor` looks at."""
    trainers = select(Heartbeat.name).where(Heartbeat.kind == "trainer", Heartbeat.seen_at > func.now() - SILENT)
    lately = select(RetentionSweep.day).where(RetentionSweep.day >= func.current_date() - 2)
    found = {
        **await health.answering_parts(services),
        "broker": await services.limiter.answers(),
        "trainer": await session.scalar(trainers.limit(1)) is not None,
        "reconciler": await session.scalar(lately.limit(1)) is not None,
    }
    return [CheckOut(name=name, ok=fine, message="works" if fine else _REMEDIES[name]) for name, fine in found.items()]


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr):
        return _HIDDEN if value.get_secret_value() else "not set"
    if name in _ADDRESSES:
        return _HIDDEN if value else "not set"
    return value if isinstance(value, (int, float, bool, list)) or value is None else str(value)


@router.get("/audit/verify", response_model=AuditVerification)
async def verify_audit(who: Admin, session: SessionDep) -> AuditVerification:
    """Whether every row of the audit log is as it was written and none is missing between."""
    require_operator(who)
    found = await session.run_sync(audit.verify)
    return AuditVerification(intact=found.intact, message=found.message)
