"""Train concepts again: new versions from the photos that they have."""

from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Request, Response
from pydantic import Field
from sqlalchemy import select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from api.audit import TrailDep
from api.auth import Trainer
from api.concept_refusals import references_gone
from api.concept_schemas import ConceptAccepted
from api.concept_states import concept_problem
from api.dispatch import notify_workers
from api.domain.errors import Conflict
from api.domain.replaced_bases import is_of_another_base, obstacle
from api.domain.tables import Concept, Job
from api.idempotency import IdempotencyHeader, IdempotentRequest, sent_fields
from api.public_address import link
from api.quotas import check_training
from api.routes.concepts import new_job, read_concept
from api.routes.jobs import described_jobs
from api.schemas import JobOut, Out, VersionIn
from api.services import ServicesDep, SessionDep
from api.vocabulary import check_class_noun, served_base, warnings_of

router = APIRouter(tags=["concepts"])


class SkippedConcept(Out):
    concept_id: UUID
    name: str
    code: str = Field(description="`concept_in_training`, `references_gone` or `unknown_class_noun`")
    detail: str


class LearnedAgain(Out):
    jobs: list[JobOut] = Field(description="the new jobs, newest first")
    skipped: list[SkippedConcept] = Field(description="concepts that are in training already, or cannot be trained")


@router.post("/concepts/versions", status_code=202, response_model=LearnedAgain)
async def create_versions(
    request: Request, services: ServicesDep, tasks: BackgroundTasks, who: Trainer, session: SessionDep, trail: TrailDep
) -> LearnedAgain:
    """Train all concepts again whose base was replaced, each as its newest job was. Safe to repeat."""
    await check_training(session, services.settings, who, request)
    base = await served_base(session, services.settings.base)
    replaced = select(Concept.id).where(Concept.owner_id == who.owner_id, is_of_another_base()).order_by(Concept.id)
    # with their rows locked, no other request trains them and no sweep removes their photos
    ids = (await session.scalars(replaced.with_for_update())).all()
    newest = aliased(
        Job, select(Job).where(Job.concept_id == Concept.id).order_by(Job.version.desc()).limit(1).lateral("job")
    )
    found = await session.execute(select(Concept, obstacle(), newest).join(newest, true()).where(Concept.id.in_(ids)))
    jobs, skipped = [], []
    for concept, code, job in found.all():
        if code is not None:
            detail = concept_problem(concept, code).detail
            skipped.append(SkippedConcept(concept_id=concept.id, name=concept.name, code=code, detail=detail))
            continue
        concept.base = base.name
        body = VersionIn.model_validate({"method": job.method, "preset": job.preset, "keep_teacher": job.keep_teacher})
        jobs.append(new_job(who, concept.id, body, version=job.version + 1))
    session.add_all(jobs)
    await session.flush()
    for queued in jobs:
        await trail.record("concept.train_again", queued.concept_id, "accepted")
        tasks.add_task(notify_workers, services.notifier, queued.id, queued.preset)
    described = await described_jobs(session, Job.id.in_([queued.id for queued in jobs]))
    return LearnedAgain(jobs=described, skipped=skipped)


@router.post("/concepts/{concept_id}/versions", status_code=202, response_model=ConceptAccepted)
async def create_version(
    concept_id: UUID,
    body: VersionIn,
    request: Request,
    services: ServicesDep,
    response: Response,
    tasks: BackgroundTasks,
    who: Trainer,
    session: SessionDep,
    trail: TrailDep,
    idempotency_key: IdempotencyHeader = None,
) -> ConceptAccepted:
    """Train a concept again on the same photos. The previous version is used until the new one is ready."""
    route = f"concepts/{concept_id}/versions"
    idempotent = await IdempotentRequest.find(session, who.owner_id, idempotency_key, route, sent_fields(body), [])
    if idempotent.answer:
        return idempotent.replay(response, ConceptAccepted)
    before = await read_concept(concept_id, who, session)
    await check_training(session, services.settings, who, request)
    base = await served_base(session, services.settings.base)
    base_name, warnings = base.name, warnings_of(base)
    check_class_noun(base, before.class_noun)
    newest = before.jobs[0]
    if newest.state in ("queued", "running"):
        raise Conflict(
            f"version {newest.version} of {before.name!r} is still {newest.state}; wait for it or cancel its job first",
            "concept_in_training",
            state=newest.state,
            job_id=str(newest.id),
        )
    job = new_job(who, concept_id, body, version=newest.version + 1)
    session.add(job)
    try:
        await session.flush()
    except IntegrityError as error:
        if await idempotent.lost_race(session):
            return idempotent.replay(response, ConceptAccepted)
        raise Conflict(
            f"another request started a version of {before.name!r} at the same moment; see its job",
            "concept_in_training",
        ) from error
    await session.execute(update(Concept).where(Concept.id == concept_id).values(base=base_name))
    detail = await read_concept(concept_id, who, session)
    if not detail.references:  # checked only now: a sweep may remove them until the new job's row exists
        raise references_gone(before.name)
    accepted = ConceptAccepted(concept=detail, job=detail.jobs[0], warnings=warnings)
    response.headers["Location"] = link(f"/v1/jobs/{job.id}")
    if not await idempotent.save_answer(session, response, accepted):
        return idempotent.replay(response, ConceptAccepted)
    await trail.record("concept.train_again", concept_id, "accepted")
    tasks.add_task(notify_workers, services.notifier, job.id, job.preset)
    return accepted
