"""Erase a concept with its references, previews, checkpoints, bundles, exports, images and the engines' copies.

References, bundles and exports are named by their hash, so two concepts may share an object; it is deleted with the
last of them. Whoever stores an object holds the lock `ERASURE` shared until the object's row exists; an erasure holds
it exclusively. So no object is deleted between its upload and its row, and none is stored after the erasure.
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from api.domain.errors import Conflict, NotFound
from api.domain.storage import ERASURE, Storage, image_prefix, job_prefix
from api.domain.tables import (
    Attempt,
    Bundle,
    Checkpoint,
    Concept,
    Consent,
    Export,
    IdempotencyKey,
    Image,
    Job,
    JobEvent,
    JobState,
    PreferenceVote,
    Reference,
    WebhookDelivery,
)
from api.engine_client import EngineClient
from api.output_schemas import ErasureReceipt
from api.quotas import keep_erased_training


async def hold_off_erasures(session: AsyncSession) -> None:
    """Hold the lock: nothing is erased until the transaction ends."""
    await session.execute(select(func.pg_advisory_xact_lock_shared(ERASURE)))


async def erase_concept(
    session: AsyncSession, storage: Storage, engines: EngineClient, *, owner_id: UUID, concept_id: UUID
) -> ErasureReceipt:
    """Erase the concept in the session's transaction and return the receipt.

    Objects are deleted before the commit, so a failed erasure can be repeated.

    Raises NotFound; Conflict while a job of the concept is queued or running; StorageUnavailable.
    """
    await session.execute(select(func.pg_advisory_xact_lock(ERASURE)))
    concept = await session.scalar(
        select(Concept).where(Concept.owner_id == owner_id, Concept.id == concept_id).with_for_update()
    )
    if concept is None:
        raise NotFound(f"there is no concept {concept_id} here; GET /v1/concepts lists yours", "no_such_concept")
    jobs = (await session.scalars(select(Job).where(Job.concept_id == concept_id).with_for_update())).all()
    for job in jobs:
        if job.state in (JobState.queued, JobState.running):
            raise Conflict(
                f"job {job.id} of {concept.name!r} is {job.state.value}; cancel it, then erase the concept",
                "concept_in_training",
                state=job.state.value,
                job_id=str(job.id),
            )
    references = (await session.scalars(select(Reference).where(Reference.concept_id == concept_id))).all()
    bundles = (await session.scalars(select(Bundle).where(Bundle.concept_id == concept_id))).all()
    own_exports = Export.bundle_id.in_([b.id for b in bundles])
    exports = (await session.scalars(select(Export).where(own_exports))).all()
    shared = {
        *await session.scalars(
            select(Reference.key).where(
                Reference.concept_id != concept_id, Reference.key.in_([r.key for r in references])
            )
        ),
        *await session.scalars(
            select(Bundle.key).where(Bundle.concept_id != concept_id, Bundle.key.in_([b.key for b in bundles]))
        ),
        *await session.scalars(select(Export.key).where(~own_exports, Export.key.in_([e.key for e in exports]))),
    }
    job_ids = [job.id for job in jobs]
    images = (await session.scalars(select(Image.id).where(Image.concept_id == concept_id).order_by(Image.id))).all()
    await _deleted(session, Image, Image.concept_id == concept_id)
    await _deleted(session, PreferenceVote, PreferenceVote.concept_id == concept_id)
    checkpoints = await _deleted(session, Checkpoint, Checkpoint.job_id.in_(job_ids))
    await _deleted(session, JobEvent, JobEvent.job_id.in_(job_ids))
    await keep_erased_training(session, owner_id, job_ids)
    await _deleted(session, WebhookDelivery, WebhookDelivery.job_id.in_(job_ids))
    await _deleted(session, Attempt, Attempt.job_id.in_(job_ids))
    await _deleted(session, Export, own_exports)
    await _deleted(session, Bundle, Bundle.concept_id == concept_id)
    await _deleted(session, Job, Job.concept_id == concept_id)
    await _deleted(session, Reference, Reference.concept_id == concept_id)
    answered = IdempotencyKey.answer["body"]["concept"]["id"].astext == str(concept_id)
    await _deleted(session, IdempotencyKey, answered)
    await _deleted(session, Consent, Consent.concept_id == concept_id)
    await _deleted(session, Concept, Concept.id == concept_id)
    own = {*(r.key for r in references), *(b.key for b in bundles), *(e.key for e in exports)} - shared
    folders = [image_prefix(concept_id), *map(job_prefix, job_ids)]
    objects = await run_in_threadpool(_delete_objects, storage, own, folders)
    cleared, unreachable = await engines.forget([b.sha256 for b in bundles if b.key not in shared])
    erased_at: datetime = (await session.execute(select(func.now()))).scalar_one()
    return ErasureReceipt(
        concept_id=concept_id,
        name=concept.name,
        erased_at=erased_at,
        references=[r.sha256 for r in references if r.key not in shared],
        bundles=[b.sha256 for b in bundles if b.key not in shared],
        exports=[e.sha256 for e in exports if e.key not in shared],
        shared=sorted(key.rpartition("/")[2].partition(".")[0] for key in shared),
        images=list(images),
        jobs=job_ids,
        checkpoints=checkpoints,
        objects=objects,
        engines_cleared=cleared,
        engines_unreachable=unreachable,
    )


async def _deleted(session: AsyncSession, table: type, which: ColumnElement[bool]) -> int:
    """Delete the rows and return how many there were."""
    result = await session.execute(delete(table).where(which).execution_options(synchronize_session=False))
    return int(result.rowcount)  # type: ignore[attr-defined]  # a DELETE's result is a CursorResult


def _delete_objects(storage: Storage, keys: Iterable[str], prefixes: Iterable[str]) -> int:
    count = 0
    for key in keys:
        storage.delete(key)
        count += 1
    return count + sum(storage.delete_prefix(prefix) for prefix in prefixes)
