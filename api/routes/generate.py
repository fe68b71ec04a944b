"""Generate images of a concept in one diffusion step."""

import base64
import time
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from api.audit import TrailDep
from api.auth import Generator
from api.domain.engine_answer import Generated
from api.domain.errors import NotAcceptable
from api.generate_schemas import GenerateIn, GenerateOut, ImageOut
from api.generation import generate_images
from api.metrics import observe_generate
from api.negotiation import IMAGES, JSON, wanted_format, warning_header
from api.services import ServicesDep, SessionDep
from api.subject import find_subject

router = APIRouter(tags=["images"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the image itself for `Accept: image/png`, `image/jpeg` or `image/webp`, else JSON",
        "content": {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in IMAGES},
    },
    406: {"description": "several images do not fit into one file"},
    409: {"description": "the concept is still in training, or its training failed"},
}


@router.post("/generate", response_model=GenerateOut, responses=_ANSWERS)
async def generate(
    body: GenerateIn,
    request: Request,
    services: ServicesDep,
    who: Generator,
    session: SessionDep,
    trail: TrailDep,
) -> Response:
    """Generate images of a concept. `<concept>` in the prompt stands for the thing."""
    began = time.perf_counter()
    media_type = wanted_format(request.headers.get("accept"))
    if body.count > 1 and media_type != JSON:
        raise NotAcceptable(
            f"{body.count} images do not fit into one {media_type} file; "
            "send `Accept: application/json`, or one request with count 1 for each seed",
            "one_image_per_file",
        )
    services.denied_words.refuse("prompt", body.prompt)
    subject = await find_subject(session, who.owner_id, body, default_decoder=services.settings.decoder)
    image_format = IMAGES.get(media_type, body.format)
    answer = await generate_images(request, services, who, session, trail, subject, body, image_format=image_format)
    generated, scores = answer.generated, answer.scores
    ids: list[UUID | None] = [image.id for image in answer.stored] or [None] * body.count
    total = time.perf_counter() - began
    observe_generate(generated.cache, total)
    headers = {
        "Server-Timing": _server_timing(
            generated,
            database=answer.queried_at - began,
            store=answer.stored_at - answer.generated_at,
            total=total,
        ),
        "X-Cache": ", ".join(f"{name}={state}" for name, state in generated.cache.items()),
        "X-Seed": ", ".join(map(str, generated.seeds)),
        "Cache-Control": "no-store",
    }
    headers |= warning_header(generated.warnings)
    if media_type != JSON:
        if scores[0] is not None:
            headers["X-Check-Score"], headers["X-Flagged"] = str(scores[0]), str(answer.is_flagged).lower()
        if body.store:
            headers["X-Image-Id"] = str(ids[0])
        headers["Vary"] = "Accept"
        return Response(generated.images[0], media_type=generated.media_type, headers=headers)
    receipts: list[str | None] = [None] * body.count
    if not body.store:
        receipts = [
            services.receipts.sign(
                file,
                owner_id=who.owner_id,
                subject=subject,
                body=body,
                seed=seed,
                check_score=score,
            )
            for seed, file, score in zip(generated.seeds, generated.images, scores, strict=True)
        ]
    result = GenerateOut(
        concept_id=subject.concept_id,
        version=subject.version,
        prompt=body.prompt,
        decoder=subject.decoder,
        images=[
            ImageOut(
                id=image_id,
                receipt=receipt,
                seed=seed,
                media_type=generated.media_type,
                data=base64.b64encode(file).decode(),
                check_score=score,
                flagged=services.image_check.flags(score),
            )
            for image_id, receipt, seed, file, score in zip(
                ids, receipts, generated.seeds, generated.images, scores, strict=True
            )
        ],
        warnings=generated.warnings,
        timing=generated.timing,
        cache=generated.cache,
    )
    return Response(result.model_dump_json(), media_type=JSON, headers=headers | {"Vary": "Accept"})


def _server_timing(generated: Generated, *, database: float, store: float, total: float) -> str:
    """Return the Server-Timing header, in milliseconds; a browser's developer tools show it."""
    parts = {"database": database * 1000}
    parts |= {name.removesuffix("_ms"): value for name, value in generated.timing.items()}
    parts |= {"store": store * 1000, "total": total * 1000}
    return ", ".join(f"{name};dur={value:.1f}" for name, value in parts.items())
