"""Train concepts again: new versions from the photos that they have."""

from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Request, Response
from sqlalchemy.exc import IntegrityError

from api.audit import TrailDep
from api.auth import Trainer
from api.concept_refusals import references_gone
from api.dispatch import notify_workers
from api.domain.errors import Conflict
from api.idempotency import IdempotencyHeader, IdempotentRequest, sent_fields
from api.public_address import link
from api.quotas import check_training
from api.routes.concepts import new_job, read_concept
from api.schemas import ConceptAccepted, VersionIn
from api.services import ServicesDep, SessionDep

router = APIRouter(tags=["concepts"])


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
    detail = await read_concept(concept_id, who, session)
    if not detail.references:  # checked only now: a sweep may remove them until the new job's row exists
        raise references_gone(before.name)
    accepted = ConceptAccepted(concept=detail, job=detail.jobs[0])
    response.headers["Location"] = link(f"/v1/jobs/{job.id}")
    if not await idempotent.save_answer(session, response, accepted):
        return idempotent.replay(response, ConceptAccepted)
    await trail.record("concept.train_again", concept_id, "accepted")
    tasks.add_task(notify_workers, services.notifier, job.id, job.preset)
    return accepted
