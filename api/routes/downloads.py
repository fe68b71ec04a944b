"""Download a trained version as a file for this service or for other tools."""

import re
from datetime import timedelta
from uuid import UUID

from fastapi import APIRouter
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from api.auth import Reader
from api.concept_refusals import not_ready
from api.domain.errors import NotFound
from api.domain.tables import Bundle, Concept, Export, Job
from api.output_schemas import DownloadOut, Layout
from api.schemas import PLACEHOLDER
from api.services import ServicesDep, SessionDep

LINK_SECONDS = 900

router = APIRouter(tags=["concepts"])


@router.get("/concepts/{concept_id}/versions/{version}/bundle", response_model=DownloadOut)
async def read_bundle(
    concept_id: UUID, version: int, services: ServicesDep, who: Reader, session: SessionDep, layout: Layout = "opad"
) -> DownloadOut:
    """Get a link to a version's file: the bundle, a file for diffusers, kohya's tools or ComfyUI, or the teacher."""
    row = (
        await session.execute(
            select(Concept, Job, Bundle, Export)
            .join(Job, Job.concept_id == Concept.id)
            .outerjoin(Bundle, Bundle.job_id == Job.id)
            .outerjoin(Export, (Export.bundle_id == Bundle.id) & (Export.layout == layout))
            .where(Concept.owner_id == who.owner_id, Concept.id == concept_id, Job.version == version)
        )
    ).one_or_none()
    if row is None:
        raise NotFound(
            f"there is no version {version} of a concept {concept_id} here; GET /v1/concepts/{concept_id} lists them",
            "no_such_version",
        )
    concept, job, bundle, export = row
    if bundle is None:
        raise not_ready(concept.name, job.id, job.state, job.error_code, job.error_detail)
    file: Bundle | Export | None = bundle if layout == "opad" else export
    if file is None:
        again = f"train the concept again (POST /v1/concepts/{concept_id}/versions)"
        raise NotFound(
            f"version {version} of {concept.name!r} did not keep its teacher; {again} with `keep_teacher`"
            if layout == "teacher"
            else f"version {version} of {concept.name!r} has no file in this layout; {again}, or convert the bundle "
            "with `python -m opad_core export`",
            "no_such_export",
        )
    filename = _filename(concept.name, version, layout)
    storage = services.storage
    await run_in_threadpool(storage.require, file.key)
    signed_at = storage.clock.now()
    return DownloadOut(
        concept_id=concept.id,
        version=version,
        layout=layout,
        filename=filename,
        url=storage.presigned_get(file.key, LINK_SECONDS, filename=filename),
        expires_at=signed_at + timedelta(seconds=LINK_SECONDS),
        sha256=file.sha256,
        size=file.size,
        trigger=f"{PLACEHOLDER} {concept.class_noun}",
        relative_error=export.relative_error if export else None,
    )


def _filename(name: str, version: int, layout: Layout) -> str:
    """Return a file name that is valid in every file system and in a header."""
    words = "-".join(re.findall(r"[a-z0-9]+", name.lower())) or "concept"
    return f"{words}-v{version}{'' if layout == 'opad' else f'-{layout}'}.safetensors"
