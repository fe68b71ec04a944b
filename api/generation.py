"""Generate images, check them and store them if body: shared by `/generate` and OpenAI's route."""

import time
from dataclasses import dataclass

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from api.audit import Trail
from api.auth import Caller
from api.domain.engine_answer import Generated
from api.domain.tables import Image
from api.generate_schemas import GenerateIn
from api.limits import count_images
from api.schemas import PLACEHOLDER
from api.services import Services
from api.stored_images import store_images
from api.subject import Subject


@dataclass(frozen=True)
class Answer:
    generated: Generated
    scores: list[float | None]
    """The image check's score of each image; None where the check is off."""
    is_flagged: bool
    stored: list[Image]
    """The stored images in their order; empty unless the request asked to store them."""
    queried_at: float
    """When the database queries were done, by `time.perf_counter`."""
    generated_at: float
    stored_at: float


async def generate_images(
    request: Request,
    services: Services,
    who: Caller,
    session: AsyncSession,
    trail: Trail,
    subject: Subject,
    body: GenerateIn,
    *,
    image_format: str,
) -> Answer:
    """Count, generate, check and store the images of one request. Stores in the session's transaction.

    Raises TooManyRequests; what `EngineClient.generate`, `ImageCheck.check_generated` and `store_images` raise.
    """
    await count_images(request, services, who, body.count)
    await session.rollback()  # returns the connection while the engine works
    queried_at = time.perf_counter()
    with services.latency_histogram.observed(who.owner_id):
        generated = await services.engines.generate(
            subject.concept_id,
            bundle=subject.bundle,
            prompt=body.prompt.replace(PLACEHOLDER, subject.class_noun) if body.untouched else body.prompt,
            seeds=list(range(body.seed, body.seed + body.count)),
            image_format=image_format,
            decoder=subject.decoder,
        )
    scores = await services.image_check.check_generated(generated)
    is_flagged = any(map(services.image_check.flags, scores))
    generated_at = time.perf_counter()
    stored = []
    if body.store:
        stored = await store_images(
            session, services.storage, generated, owner_id=who.owner_id, subject=subject, body=body, scores=scores
        )
    if is_flagged:
        await trail.record("image.flag", subject.concept_id, "generated")
    return Answer(generated, scores, is_flagged, stored, queried_at, generated_at, time.perf_counter())
