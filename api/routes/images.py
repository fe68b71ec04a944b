"""Stored images: store one that was generated without `store`; list, read and erase them."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from api.audit import TrailDep
from api.auth import Generator, Reader
from api.domain.storage import Storage
from api.domain.tables import Concept, Image
from api.generate_schemas import GenerateIn, KeepIn
from api.output_schemas import ImagePage, StoredImage
from api.services import ServicesDep, SessionDep
from api.stored_images import erase_image, keep_image, no_such_image

LINK_SECONDS = 900
_MEDIA_TYPES: dict[str, Any] = {f"image/{name}": {} for name in ("png", "jpeg", "webp")}

router = APIRouter(tags=["images"])


@router.post("/images", status_code=201, response_model=StoredImage)
async def store_image(body: KeepIn, services: ServicesDep, who: Generator, session: SessionDep) -> StoredImage:
    """Store an image that was generated without `store`, byte for byte as it was answered."""
    receipt = services.receipts.read(body.receipt, body.data, owner_id=who.owner_id)
    await keep_image(session, services.storage, receipt, body.data)
    return await read_image(receipt.id, services, who, session)


@router.get("/images", response_model=ImagePage)
async def list_images(
    services: ServicesDep,
    who: Reader,
    session: SessionDep,
    concept_id: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: UUID | None = None,
) -> ImagePage:
    """List your stored images, newest first, of all concepts or of one."""
    query = (
        select(Image, Concept.name)
        .join(Concept, Concept.id == Image.concept_id)
        .where(Image.owner_id == who.owner_id)
        .order_by(Image.id.desc())
        .limit(limit + 1)
    )
    if concept_id is not None:
        query = query.where(Image.concept_id == concept_id)
    if cursor is not None:
        query = query.where(Image.id < cursor)
    found = (await session.execute(query)).all()
    items = [_described(services.storage, image, name) for image, name in found[:limit]]
    return ImagePage(items=items, next=str(items[-1].id) if len(found) > limit else None)


@router.get("/images/{image_id}", response_model=StoredImage)
async def read_image(image_id: UUID, services: ServicesDep, who: Reader, session: SessionDep) -> StoredImage:
    """Read a stored image: a link to its file, and the settings for `POST /v1/generate` that generate it again."""
    row = (
        await session.execute(
            select(Image, Concept.name)
            .join(Concept, Concept.id == Image.concept_id)
            .where(Image.owner_id == who.owner_id, Image.id == image_id)
        )
    ).one_or_none()
    if row is None:
        raise no_such_image(image_id)
    image, name = row
    await run_in_threadpool(services.storage.require, image.key)
    return _described(services.storage, image, name)


@router.get("/images/{image_id}/file", response_class=Response, responses={200: {"content": _MEDIA_TYPES}})
async def read_image_file(image_id: UUID, services: ServicesDep, who: Reader, session: SessionDep) -> Response:
    """Download a stored image's file through this service."""
    image = await session.scalar(select(Image).where(Image.owner_id == who.owner_id, Image.id == image_id))
    if image is None:
        raise no_such_image(image_id)
    data = await run_in_threadpool(services.storage.get, image.key, image.sha256)
    headers = {"ETag": f'"{image.sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    return Response(data, media_type=f"image/{image.format}", headers=headers)


@router.delete("/images/{image_id}", status_code=204)
async def delete_image(
    image_id: UUID, services: ServicesDep, who: Generator, session: SessionDep, trail: TrailDep
) -> None:
    """Erase a stored image for good, with its file and settings."""
    await erase_image(session, services.storage, owner_id=who.owner_id, image_id=image_id)
    await trail.record("image.erase", image_id, "erased")


def _described(storage: Storage, image: Image, concept_name: str) -> StoredImage:
    signed_at = storage.clock.now()
    return StoredImage(
        id=image.id,
        concept_id=image.concept_id,
        concept_name=concept_name,
        version=image.version,
        settings=GenerateIn.model_construct(  # not checked again: an older version's rules may have allowed this prompt
            concept_id=image.concept_id,
            prompt=image.prompt,
            seed=image.seed,
            untouched=image.version is None,
            format=image.format,
            decoder=image.decoder,
        ),
        url=storage.presigned_get(image.key, LINK_SECONDS, filename=f"{image.id}.{image.format}"),
        expires_at=signed_at + timedelta(seconds=LINK_SECONDS),
        sha256=image.sha256,
        size=image.size,
        check_score=image.check_score,
        created_at=image.created_at,
    )
