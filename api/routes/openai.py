"""Generate images through OpenAI's API: its clients need only another base URL and key."""

import base64
import re
import time

from fastapi import APIRouter, Request, Response
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.audit import TrailDep
from api.auth import Generator, Reader
from api.concept_states import concept_problem
from api.domain.errors import Invalid, NotFound
from api.domain.replaced_bases import is_of_another_base, obstacle
from api.domain.tables import Bundle, Concept, Owner
from api.domain.text_rules import as_read, name_as_read
from api.generate_schemas import GenerateIn
from api.generation import generate_images
from api.metrics import observe_generate
from api.negotiation import warning_header
from api.openai_schemas import ImagesIn, ImagesOut, ModelList, ModelOut, OneImage
from api.services import ServicesDep, SessionDep
from api.subject import find_subject

PREFIX = "concept:"
LINK_SECONDS = 3600
"""OpenAI's links last as long."""
_SIZE = re.compile(r"[0-9]+x[0-9]+")

router = APIRouter(tags=["OpenAI compatible"])


@router.post("/images/generations", response_model=ImagesOut)
async def create_images(
    body: ImagesIn,
    request: Request,
    response: Response,
    services: ServicesDep,
    who: Generator,
    session: SessionDep,
    trail: TrailDep,
) -> ImagesOut:
    """Generate images: `client.images.generate(model="concept:my mug", prompt="a photo of <concept>")`."""
    image_format = body.output_format or "png"
    settings = GenerateIn(
        concept=_concept_name(body.model),
        prompt=body.prompt,
        count=body.n or 1,
        untouched=False,
        version=None,
        decoder=None,
        format=image_format,
        seed=body.seed,
        store=body.response_format == "url",
    )
    began = time.perf_counter()
    services.denied_words.refuse("prompt", settings.prompt)
    subject = await find_subject(session, who.owner_id, settings, default_decoder=services.settings.decoder)
    warnings = _size_warnings(body.size, subject.resolution)
    answer = await generate_images(request, services, who, session, trail, subject, settings, image_format=image_format)
    response.headers.update(warning_header(warnings + answer.generated.warnings))
    observe_generate(answer.generated.cache, time.perf_counter() - began)
    if settings.store:
        images = [
            OneImage(
                b64_json=None,
                url=services.storage.presigned_get(image.key, LINK_SECONDS, filename=f"{image.id}.{image.format}"),
                seed=image.seed,
            )
            for image in answer.stored
        ]
    else:
        images = [
            OneImage(b64_json=base64.b64encode(file).decode(), url=None, seed=seed)
            for seed, file in zip(answer.generated.seeds, answer.generated.images, strict=True)
        ]
    return ImagesOut(created=int(time.time()), data=images, output_format=image_format)


@router.get("/models", response_model=ModelList)
async def list_models(who: Reader, session: SessionDep) -> ModelList:
    """List your trained concepts as models, newest first."""
    return ModelList(data=await _models(session, Concept.owner_id == who.owner_id))


@router.get("/models/{model:path}", response_model=ModelOut)
async def read_model(model: str, who: Reader, session: SessionDep) -> ModelOut:
    """Read one trained concept as a model."""
    found = await _models(session, Concept.owner_id == who.owner_id, Concept.name == _concept_name(model))
    if not found:
        raise _no_such_model(model)
    return found[0]


async def _models(session: AsyncSession, *conditions: ColumnElement[bool]) -> list[ModelOut]:
    trained_at = func.max(Bundle.created_at)
    query = (
        select(Concept, Owner.name, trained_at, is_of_another_base(), obstacle())
        .join(Owner, Owner.id == Concept.owner_id)
        .join(Bundle, Bundle.concept_id == Concept.id)
        .where(*conditions)
        .group_by(Concept.id, Owner.name)
        .order_by(Concept.id.desc())
    )
    return [
        ModelOut(
            id=PREFIX + concept.name,
            created=int(created.timestamp()),
            owned_by=owner,
            problem=concept_problem(concept, hindered_by) if has_changed else None,
        )
        for concept, owner, created, has_changed, hindered_by in (await session.execute(query)).all()
    ]


def _concept_name(model: str) -> str:
    read = as_read(model)
    if not read.startswith(PREFIX):
        raise _no_such_model(model)
    try:
        return name_as_read(read.removeprefix(PREFIX))
    except ValueError as error:
        raise _no_such_model(model) from error


def _no_such_model(model: str) -> NotFound:
    return NotFound(
        f"there is no trained model {model!r} here; GET /v1/models lists them, a concept is `{PREFIX}<name>`",
        "model_not_found",
    )


def _size_warnings(size: str | None, side: int | None) -> list[str]:
    """Return a warning if the base has another size; clients send OpenAI's sizes by themselves. Raises Invalid."""
    if size is not None and size != "auto" and not _SIZE.fullmatch(size):
        raise Invalid(f"the size is {size!r}; write it as WIDTHxHEIGHT, or leave it out", "wrong_size")
    if side is None or size in (None, "auto", f"{side}x{side}"):
        return []
    return [f"the size is {side}x{side}, the only one of this base, and not {size}"]
