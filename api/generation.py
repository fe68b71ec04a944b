"""Generate images and keep those that are asked to be kept: what `/generate` and OpenAI's route have in common."""

import time
from dataclasses import dataclass

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from api.audit import Trail
from api.auth import Caller
from api.domain.tables import Image
from api.engine_client import Generated
from api.keeping import keep_images
from api.limits import count_images
from api.schemas import PLACEHOLDER, GenerateIn
from api.services import Services
from api.subject import Subject


@dataclass(frozen=True)
class Answer:
    generated: Generated
    scores: list[float | None]
    """Of the image check, for each image; None where nothing is scored."""
    is_flagged: bool
    kept: list[Image]
    """In the order of the images; empty unless they were to be kept."""
    asked_at: float
    """When the database had been asked, on `time.perf_counter`."""
    generated_at: float
    kept_at: float


async def generate_images(
    request: Request,
    services: Services,
    who: Caller,
    session: AsyncSession,
    trail: Trail,
    subject: Subject,
    asked: GenerateIn,
    *,
    image_format: str,
) -> Answer:
    """In the session's transaction, if images are kept.

    Raises TooManyRequests; what `EngineClient.generate`, `ImageCheck.check_generated` and `keep_images` raise.
    """
    await count_images(request, services, who, asked.count)
    await session.rollback()  # gives the connection back while the engine draws
    asked_at = time.perf_counter()
    with services.latency_histogram.observed(who.owner_id):
        generated = await services.engines.generate(
            subject.concept_id,
            bundle=subject.bundle,
            prompt=asked.prompt.replace(PLACEHOLDER, subject.class_noun) if asked.untouched else asked.prompt,
            seeds=list(range(asked.seed, asked.seed + asked.count)),
            image_format=image_format,
        )
    scores = await services.image_check.check_generated(generated)
    is_flagged = any(map(services.image_check.flags, scores))
    generated_at = time.perf_counter()
    kept = []
    if asked.store:
        kept = await keep_images(
            session, services.storage, generated, owner_id=who.owner_id, subject=subject, asked=asked, scores=scores
        )
    if is_flagged:
        await trail.record("image.flag", subject.concept_id, "generated")
    return Answer(generated, scores, is_flagged, kept, asked_at, generated_at, time.perf_counter())
