"""Pictures of a concept, in one step."""

import base64
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Caller, Generator
from api.db import SessionDep
from api.domain.errors import Conflict, NotAcceptable, NotFound
from api.domain.models import Bundle, Concept, Job, JobState, ServedBase
from api.engine_client import BundleKey, EngineClient, Generated
from api.limits import count_images
from api.metrics import observe_generate
from api.negotiation import IMAGES, JSON, wanted_format
from api.schemas import PLACEHOLDER, GenerateIn, GenerateOut, ImageOut
from api.vocabulary import prompt_warnings

router = APIRouter(tags=["images"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the picture itself for `Accept: image/png`, `image/jpeg` or `image/webp`, else JSON",
        "content": {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in IMAGES},
    },
    406: {"description": "several pictures do not fit into one image file"},
    409: {"description": "the concept is still in training, or its training failed"},
}


@dataclass(frozen=True)
class _Found:
    concept_id: UUID
    class_noun: str
    bundle: BundleKey | None
    version: int | None
    warnings: list[str]


@router.post("/generate", response_model=GenerateOut, responses=_ANSWERS)
async def generate(asked: GenerateIn, request: Request, who: Generator, session: SessionDep) -> Response:
    """Draw a concept: `<concept>` in the prompt stands for the thing."""
    began = time.perf_counter()
    media_type = wanted_format(request.headers.get("accept"))
    if asked.count > 1 and media_type != JSON:
        raise NotAcceptable(
            f"{asked.count} pictures do not fit into one {media_type} file; "
            "send `Accept: application/json`, or count 1 with a seed for each",
            "one_image_per_file",
        )
    found = await _find(session, who, asked)
    await count_images(request, who, asked.count)
    await session.rollback()  # gives the connection back while the engine draws
    looked_up = time.perf_counter()
    engines: EngineClient = request.app.state.engines
    generated = await engines.generate(
        found.concept_id,
        bundle=None if asked.untouched else found.bundle,
        prompt=asked.prompt.replace(PLACEHOLDER, found.class_noun) if asked.untouched else asked.prompt,
        seeds=list(range(asked.seed, asked.seed + asked.count)),
        image_format=IMAGES.get(media_type, asked.format),
    )
    total = time.perf_counter() - began
    observe_generate(generated.cache, total)
    headers = {
        "Server-Timing": _server_timing(generated, database=looked_up - began, total=total),
        "X-Cache": ", ".join(f"{name}={state}" for name, state in generated.cache.items()),
        "X-Seed": ", ".join(map(str, generated.seeds)),
        "Cache-Control": "no-store",
    }
    if found.warnings:
        headers["X-Warnings"] = "; ".join(found.warnings).encode("ascii", "backslashreplace").decode()
    if media_type != JSON:
        headers["Vary"] = "Accept"
        return Response(base64.b64decode(generated.images[0]), media_type=generated.media_type, headers=headers)
    body = GenerateOut(
        concept_id=found.concept_id,
        version=None if asked.untouched else found.version,
        prompt=asked.prompt,
        images=[
            ImageOut(seed=seed, media_type=generated.media_type, data=data)
            for seed, data in zip(generated.seeds, generated.images, strict=True)
        ],
        warnings=found.warnings,
        timing=generated.timing,
        cache=generated.cache,
    )
    return Response(body.model_dump_json(), media_type=JSON, headers=headers | {"Vary": "Accept"})


async def _find(session: AsyncSession, who: Caller, asked: GenerateIn) -> _Found:
    """One SELECT: the concept, its newest bundle and newest job, and what its base understands."""
    named = Concept.id == asked.concept_id if asked.concept_id else Concept.name == asked.concept
    newest_bundle = select(Bundle).where(Bundle.concept_id == Concept.id).order_by(Bundle.version.desc()).limit(1)
    newest_job = select(Job).where(Job.concept_id == Concept.id).order_by(Job.version.desc()).limit(1)
    bundle, job = newest_bundle.lateral("bundle"), newest_job.lateral("job")
    row = (
        await session.execute(
            select(
                Concept.id.label("concept_id"),
                Concept.name,
                Concept.class_noun,
                bundle.c.key,
                bundle.c.sha256,
                bundle.c.version,
                job.c.id.label("job_id"),
                job.c.state,
                job.c.error_code,
                job.c.error_detail,
                ServedBase,
            )
            .outerjoin(bundle, onclause=Concept.id == bundle.c.concept_id)
            .outerjoin(job, onclause=Concept.id == job.c.concept_id)
            .outerjoin(ServedBase, ServedBase.name == Concept.base)
            .where(Concept.owner_id == who.owner_id, named)
        )
    ).one_or_none()
    if row is None:
        wanted = asked.concept_id or repr(asked.concept)
        raise NotFound(f"there is no concept {wanted} here; GET /v1/concepts lists yours", "no_such_concept")
    if row.key is None and not asked.untouched:
        raise _not_ready(row.name, row.job_id, row.state, row.error_code, row.error_detail)
    return _Found(
        concept_id=row.concept_id,
        class_noun=row.class_noun,
        bundle=BundleKey(row.key, row.sha256) if row.key else None,
        version=row.version,
        warnings=prompt_warnings(row.ServedBase, asked.prompt),
    )


def _not_ready(name: str, job_id: UUID, state: JobState, error_code: str | None, error_detail: str | None) -> Conflict:
    context = {"state": state.value, "job_id": str(job_id)}
    if state is JobState.failed:
        return Conflict(
            f"the training of {name!r} failed ({error_code}: {error_detail}); train it again",
            "concept_failed",
            **context,
        )
    if state is JobState.cancelled:
        return Conflict(f"the training of {name!r} was cancelled; train it again", "concept_cancelled", **context)
    return Conflict(
        f"{name!r} is still in training (its job is {state}); GET /v1/jobs/{job_id} tells how far it is",
        "concept_in_training",
        **context,
    )


def _server_timing(generated: Generated, *, database: float, total: float) -> str:
    """Milliseconds, readable in a browser's developer tools."""
    parts = {"database": database * 1000}
    parts |= {name.removesuffix("_ms"): value for name, value in generated.timing.items()}
    parts["total"] = total * 1000
    return ", ".join(f"{name};dur={value:.1f}" for name, value in parts.items())
