"""The same pictures in the shape of OpenAI's API: its clients work with nothing but another address and key."""

import time

from fastapi import APIRouter, Request
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.audit import TrailDep
from api.auth import Generator, Reader
from api.db import SessionDep
from api.domain.errors import Invalid, NotFound
from api.domain.models import Bundle, Concept, Owner
from api.domain.storage import Storage
from api.drawing import Subject, draw, find_subject
from api.keeping import keep_images
from api.limits import count_images
from api.metrics import observe_generate
from api.openai_schemas import ImagesIn, ImagesOut, ModelList, ModelOut, OneImage
from api.schemas import GenerateIn

PREFIX = "concept:"
LINK_SECONDS = 3600
"""As long as OpenAI's."""

router = APIRouter(tags=["for OpenAI's clients"])


@router.post("/images/generations", response_model=ImagesOut)
async def create_images(
    asked: ImagesIn, request: Request, who: Generator, session: SessionDep, trail: TrailDep
) -> ImagesOut:
    """`client.images.generate(model="concept:my mug", prompt="a photo of <concept> on a beach")`."""
    settings = GenerateIn(
        concept=_concept_name(asked.model),
        prompt=asked.prompt,
        count=asked.n,
        untouched=False,
        version=None,
        format=asked.output_format,
        seed=asked.seed,
        store=asked.response_format == "url",
    )
    began = time.perf_counter()
    state = request.app.state
    state.denied_words.refuse("prompt", settings.prompt)
    subject = await find_subject(session, who.owner_id, settings)
    _check_size(asked.size, subject)
    await count_images(request, who, asked.n)
    await session.rollback()  # gives the connection back while the engine draws
    with state.tally.observed(who.owner_id):
        generated = await draw(state.engines, subject, settings, image_format=asked.output_format)
    scores = await state.image_check.drawn(generated)
    is_flagged = any(map(state.image_check.flags, scores))
    observe_generate(generated.cache, time.perf_counter() - began)
    created = int(time.time())
    if not settings.store:
        if is_flagged:
            await trail.record("image.flag", subject.concept_id, "drawn")
        images = [
            OneImage(b64_json=data, url=None, seed=seed)
            for seed, data in zip(generated.seeds, generated.images, strict=True)
        ]
        return ImagesOut(created=created, data=images, output_format=asked.output_format)
    storage: Storage = state.storage
    kept = await keep_images(
        session, storage, generated, owner_id=who.owner_id, subject=subject, asked=settings, scores=scores
    )
    if is_flagged:
        await trail.record("image.flag", subject.concept_id, "drawn")
    images = [
        OneImage(
            b64_json=None,
            url=storage.presigned_get(image.key, LINK_SECONDS, filename=f"{image.id}.{image.format}"),
            seed=image.seed,
        )
        for image in kept
    ]
    return ImagesOut(created=created, data=images, output_format=asked.output_format)


@router.get("/models", response_model=ModelList)
async def list_models(who: Reader, session: SessionDep) -> ModelList:
    """Your concepts that are ready, newest first, as models."""
    return ModelList(data=await _models(session, Concept.owner_id == who.owner_id))


@router.get("/models/{model:path}", response_model=ModelOut)
async def read_model(model: str, who: Reader, session: SessionDep) -> ModelOut:
    """One concept that is ready, as a model."""
    found = await _models(session, Concept.owner_id == who.owner_id, Concept.name == _concept_name(model))
    if not found:
        raise _no_such_model(model)
    return found[0]


async def _models(session: AsyncSession, *conditions: ColumnElement[bool]) -> list[ModelOut]:
    learned_at = func.max(Bundle.created_at)
    query = (
        select(Concept.name, Owner.name, learned_at)
        .join(Owner, Owner.id == Concept.owner_id)
        .join(Bundle, Bundle.concept_id == Concept.id)
        .where(*conditions)
        .group_by(Concept.id, Owner.name)
        .order_by(Concept.id.desc())
    )
    return [
        ModelOut(id=PREFIX + name, created=int(created.timestamp()), owned_by=owner)
        for name, owner, created in (await session.execute(query)).all()
    ]


def _concept_name(model: str) -> str:
    if not model.startswith(PREFIX):
        raise _no_such_model(model)
    return model.removeprefix(PREFIX)


def _no_such_model(model: str) -> NotFound:
    return NotFound(
        f"there is no model {model!r} that is ready here; GET /v1/models lists them, a concept is `{PREFIX}<name>`",
        "model_not_found",
    )


def _check_size(size: str | None, subject: Subject) -> None:
    side = subject.resolution
    if side is not None and size not in (None, "auto", f"{side}x{side}"):
        raise Invalid(f"the size is {size!r}; this base draws {side}x{side}: ask for it, or for 'auto'", "wrong_size")
