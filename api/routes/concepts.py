"""Concepts: upload photos of a thing, train them again, read and erase them."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import APIRouter, BackgroundTasks, Query, Request, Response
from sqlalchemy import func, or_, select, true
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, selectinload
from starlette.concurrency import run_in_threadpool

from api.audit import TrailDep
from api.auth import Caller, Reader, Trainer
from api.concept_form import split_form
from api.concept_schemas import ConceptAccepted, ConceptDetail, ConceptOut, ConceptPage, ConceptState
from api.concept_states import concept_problem, concept_state
from api.decoder import CleanImage
from api.dispatch import notify_workers
from api.domain import failpoints
from api.domain.consent import STATEMENT, STATEMENT_VERSION
from api.domain.errors import Conflict, Invalid, NotFound
from api.domain.replaced_bases import is_of_another_base, obstacle
from api.domain.settings import Settings
from api.domain.storage import Storage, reference_key
from api.domain.tables import Bundle, Concept, Consent, Job, Reference
from api.domain.text_rules import as_read
from api.erasure import erase_concept, hold_off_erasures
from api.idempotency import IdempotencyHeader, IdempotentRequest, sent_fields
from api.output_schemas import ErasureReceipt
from api.public_address import link
from api.quotas import check_concepts, check_training
from api.routes.jobs import described_jobs
from api.schemas import ConceptIn, Problem, VersionIn
from api.services import ServicesDep, SessionDep
from api.stored_images import png_answer
from api.uploads import clean_images, describe, read_form
from api.vocabulary import check_class_noun, served_base, warnings_of

log = structlog.get_logger()
router = APIRouter(tags=["concepts"])

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images", "name", "class_noun", "consent"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "from 32x32 pixels to 25 megapixels; no two the same",
                        },
                        "name": {
                            "type": "string",
                            "maxLength": 80,
                            "description": "any name; unique among your concepts",
                        },
                        "class_noun": {"type": "string", "description": "what kind of thing it is: dog, mug, backpack"},
                        "consent": {
                            "type": "string",
                            "enum": ["true"],
                            "description": f"your statement: {STATEMENT} Not needed if the installation has a "
                            "policy for it",
                        },
                        "method": {
                            "type": "string",
                            "enum": ["opad", "custom_diffusion"],
                            "default": "opad",
                            "description": "how the concept is learned",
                        },
                        "preset": {
                            "type": "string",
                            "enum": ["default", "paper"],
                            "default": "default",
                            "description": "of opad",
                        },
                        "seed": {"type": "integer", "minimum": 0, "description": "random if missing"},
                        "overrides": {
                            "type": "string",
                            "description": "JSON with the length of the training: iterations, of opad also "
                            "collaborative_iterations, and eval_every, patience and min_gain to end it early",
                            "example": '{"iterations": 200}',
                        },
                        "keep_teacher": {
                            "type": "string",
                            "enum": ["true", "false"],
                            "default": "false",
                            "description": "of opad: also store the teacher, which generates images in many steps on "
                            "the command line",
                        },
                    },
                },
                "example": {
                    "name": "my mug",
                    "class_noun": "mug",
                    "consent": "true",
                    "images": ["1.jpg", "2.jpg", "3.jpg"],
                },
            }
        },
    }
}


@router.post(
    "/concepts",
    status_code=202,
    response_model=ConceptAccepted,
    openapi_extra=_FORM,
    responses={415: {"model": Problem}},
)
async def create_concept(
    request: Request,
    services: ServicesDep,
    response: Response,
    tasks: BackgroundTasks,
    who: Trainer,
    session: SessionDep,
    trail: TrailDep,
    idempotency_key: IdempotencyHeader = None,
) -> ConceptAccepted:
    """Upload photos of one thing. The answer is immediate and names the job that trains the concept."""
    await session.rollback()  # returns the connection while the body arrives
    fields = f"the fields images ({services.settings.reference_count('file')}), name and class_noun"
    form = await read_form(request, services.settings, fields=fields)
    try:
        body, files = split_form(form)
        _check_consent(services.settings, body)
        services.denied_words.refuse("class_noun", body.class_noun)
        idempotent = await IdempotentRequest.find(
            session, who.owner_id, idempotency_key, "concepts", sent_fields(body), files
        )
        if idempotent.answer:
            return idempotent.replay(response, ConceptAccepted)
        await check_training(session, services.settings, who, request)
        base = await served_base(session, services.settings.base)
        base_name, class_noun, warnings = base.name, check_class_noun(base, body.class_noun), warnings_of(base)
        await _refuse_taken_name(session, who.owner_id, body.name)
        await session.rollback()  # returns the connection while the images are decoded
        images = await clean_images(files, services.decoder, services.settings)
        scores = await services.image_check.check_references(files, images)
    finally:
        await form.close()
    await check_concepts(session, services.settings, who)
    await hold_off_erasures(session)
    await run_in_threadpool(_store, services.storage, images)
    failpoints.reach("references.stored")
    concept = Concept(owner_id=who.owner_id, name=body.name, class_noun=class_noun, base=base_name)
    session.add(concept)
    try:
        await session.flush()
    except IntegrityError as error:
        if await idempotent.lost_race(session):
            return idempotent.replay(response, ConceptAccepted)
        raise _name_taken(body.name) from error
    session.add(
        Consent(
            concept_id=concept.id,
            api_key_id=who.api_key_id,
            source="statement" if body.consent else "policy",
            statement_version=STATEMENT_VERSION,
        )
    )
    job = new_job(who, concept.id, body, version=1)
    session.add(job)
    session.add_all(
        Reference(
            concept_id=concept.id,
            position=position,
            key=reference_key(image.sha256),
            sha256=image.sha256,
            width=image.width,
            height=image.height,
            check_score=score,
        )
        for position, (image, score) in enumerate(zip(images, scores, strict=True), start=1)
    )
    await session.flush()
    detail = await _detail(session, who, concept.id)
    warnings += [
        f"{describe(index, files[index].filename)} says that it is a generated image"
        for index, image in enumerate(images)
        if image.says_generated
    ]
    accepted = ConceptAccepted(concept=detail, job=detail.jobs[0], warnings=warnings)
    response.headers["Location"] = link(f"/v1/concepts/{concept.id}")
    if not await idempotent.save_answer(session, response, accepted):
        return idempotent.replay(response, ConceptAccepted)
    await trail.record("concept.create", concept.id, "accepted")
    if any(map(services.image_check.flags, scores)):
        await trail.record("image.flag", concept.id, "reference")
    tasks.add_task(notify_workers, services.notifier, job.id, job.preset)  # runs after the commit and the answer
    log.info("concept.accepted", concept_id=str(concept.id), job_id=str(job.id), images=len(images))
    return accepted


def new_job(who: Caller, concept_id: UUID, body: ConceptIn | VersionIn, *, version: int) -> Job:
    return Job(
        owner_id=who.owner_id,
        concept_id=concept_id,
        version=version,
        method=body.method,
        preset=body.preset,
        overrides=body.overrides.model_dump(exclude_none=True) if body.overrides else {},
        seed=body.seed,
        keep_teacher=body.keep_teacher,
    )


def _check_consent(settings: Settings, body: ConceptIn) -> None:
    if settings.consent == "ask" and not body.consent:
        raise Invalid(
            f"the consent is missing; send the field consent=true to declare: {STATEMENT}",
            "consent_missing",
            errors=[{"field": "consent", "message": "is missing; send consent=true"}],
            statement=STATEMENT,
        )


async def _refuse_taken_name(session: AsyncSession, owner_id: UUID, name: str) -> None:
    if await session.scalar(select(Concept.id).where(Concept.owner_id == owner_id, Concept.name == name)):
        raise _name_taken(name)


def _name_taken(name: str) -> Conflict:
    return Conflict(
        f"you already have a concept named {name!r}; choose another name",
        "name_taken",
        errors=[{"field": "name", "message": f"you already have a concept named {name!r}; choose another name"}],
    )


def _store(storage: Storage, images: Sequence[CleanImage]) -> None:
    for image in images:
        storage.put_once(reference_key(image.sha256), image.png, image.sha256)


@router.get("/concepts", response_model=ConceptPage)
async def list_concepts(
    who: Reader,
    session: SessionDep,
    name: Annotated[str | None, Query(max_length=80, description="part of the name or class noun")] = None,
    state: ConceptState | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: UUID | None = None,
) -> ConceptPage:
    """List your concepts, newest first."""
    own_bundles = select(Bundle).where(Bundle.concept_id == Concept.id)
    newest_bundle = aliased(Bundle, own_bundles.order_by(Bundle.version.desc()).limit(1).lateral())
    versions = select(func.array_agg(aggregate_order_by(Bundle.version, Bundle.version)))
    newest_method = select(Job.method).where(Job.concept_id == Concept.id).order_by(Job.version.desc()).limit(1)
    query = (
        select(
            Concept,
            concept_state(),
            newest_method.scalar_subquery(),
            is_of_another_base(),
            obstacle(),
            versions.where(Bundle.concept_id == Concept.id).scalar_subquery(),
            newest_bundle,
        )
        .outerjoin(newest_bundle, true())
        .where(Concept.owner_id == who.owner_id)
        .order_by(Concept.id.desc())
        .limit(limit + 1)
    )
    if name:
        name = as_read(name)
        query = query.where(
            or_(Concept.name.icontains(name, autoescape=True), Concept.class_noun.icontains(name, autoescape=True))
        )
    if state is not None:
        query = query.where(concept_state() == state)
    if cursor is not None:
        query = query.where(Concept.id < cursor)
    found = (await session.execute(query)).all()
    items = [
        ConceptOut.of(
            concept,
            state_now,
            method,
            concept_problem(concept, hindered_by) if has_changed else None,
            bundle,
            versions or [],
        )
        for concept, state_now, method, has_changed, hindered_by, versions, bundle in found[:limit]
    ]
    return ConceptPage(items=items, next=str(items[-1].id) if len(found) > limit else None)


@router.get("/concepts/{concept_id}", response_model=ConceptDetail)
async def read_concept(concept_id: UUID, who: Reader, session: SessionDep) -> ConceptDetail:
    """Read one concept with its photos, jobs and bundle."""
    return await _detail(session, who, concept_id)


@router.delete("/concepts/{concept_id}", response_model=ErasureReceipt)
async def erase(
    concept_id: UUID, services: ServicesDep, who: Trainer, session: SessionDep, trail: TrailDep
) -> ErasureReceipt:
    """Erase a concept for good: photos, versions, jobs, checkpoints, previews. The answer lists what was erased."""
    receipt = await erase_concept(
        session, services.storage, services.engines, owner_id=who.owner_id, concept_id=concept_id
    )  # fmt: skip
    await trail.record("concept.erase", concept_id, "erased")
    log.info("concept.erased", concept_id=str(concept_id), objects=receipt.objects)
    return receipt


@router.get(
    "/concepts/{concept_id}/references/{position}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
async def read_reference(
    concept_id: UUID, position: int, request: Request, services: ServicesDep, who: Reader, session: SessionDep
) -> Response:
    """Read the photo at this position (from 1), as it was decoded and stored."""
    reference = await session.scalar(
        select(Reference)
        .join(Concept, Concept.id == Reference.concept_id)
        .where(Concept.owner_id == who.owner_id, Concept.id == concept_id, Reference.position == position)
    )
    if reference is None:
        raise NotFound(f"there is no photo {position} of a concept {concept_id} here", "no_such_reference")
    return await png_answer(request, services.storage, key=reference.key, sha256=reference.sha256)


async def _detail(session: AsyncSession, who: Caller, concept_id: UUID) -> ConceptDetail:
    query = (
        select(Concept, concept_state(), is_of_another_base(), obstacle())
        .where(Concept.owner_id == who.owner_id, Concept.id == concept_id)
        .options(selectinload(Concept.references), selectinload(Concept.bundles), selectinload(Concept.jobs))
        .execution_options(populate_existing=True)
    )
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise NotFound(f"there is no concept {concept_id} here; GET /v1/concepts lists yours", "no_such_concept")
    concept, state, has_changed, hindered_by = found
    problem = concept_problem(concept, hindered_by) if has_changed else None
    described = await described_jobs(session, Job.concept_id == concept_id)
    return ConceptDetail.of_all(concept, state, problem, described, await session.get(Consent, concept_id))
