"""Store generated images: an object for each, and a row with the settings that generate it again."""

import hashlib
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from uuid_utils.compat import uuid7

from api.domain.engine_answer import Generated
from api.domain.errors import NotFound
from api.domain.storage import Storage, image_key
from api.domain.tables import Concept, Image
from api.erasure import hold_off_erasures
from api.generate_schemas import GenerateIn
from api.image_receipts import ImageReceipt
from api.subject import Subject


async def store_images(
    session: AsyncSession,
    storage: Storage,
    generated: Generated,
    *,
    owner_id: UUID,
    subject: Subject,
    body: GenerateIn,
    scores: Sequence[float | None],
) -> list[Image]:
    """Store the images in the session's transaction, in their order.

    Raises NotFound if the concept was erased while the engine worked; StorageUnavailable.
    """
    await _hold_concept(session, subject.concept_id)
    image_format = generated.media_type.removeprefix("image/")
    images = []
    for seed, file, score in zip(generated.seeds, generated.images, scores, strict=True):
        image_id = uuid7()
        images.append(
            Image(
                id=image_id,
                owner_id=owner_id,
                concept_id=subject.concept_id,
                version=subject.version,
                prompt=body.prompt,
                seed=seed,
                format=image_format,
                decoder=subject.decoder,
                key=image_key(subject.concept_id, image_id, image_format),
                sha256=hashlib.sha256(file).hexdigest(),
                size=len(file),
                check_score=score,
            )
        )
    await run_in_threadpool(_store, storage, images, generated.images)
    session.add_all(images)
    await session.flush()
    return images


async def keep_image(session: AsyncSession, storage: Storage, receipt: ImageReceipt, file: bytes) -> None:
    """Store a generated image by its receipt. A second time changes nothing.

    Raises NotFound if the concept was erased meanwhile; StorageUnavailable.
    """
    await _hold_concept(session, receipt.concept_id)
    key = image_key(receipt.concept_id, receipt.id, receipt.format)
    await run_in_threadpool(storage.put_once, key, file, receipt.sha256)
    row = receipt.model_dump(exclude={"expires_at"}) | {"key": key, "size": len(file)}
    await session.execute(insert(Image).values(row).on_conflict_do_nothing())


async def _hold_concept(session: AsyncSession, concept_id: UUID) -> None:
    """Keep the concept from being erased until the transaction ends. Raises NotFound if it is erased already."""
    await hold_off_erasures(session)
    if await session.scalar(select(Concept.id).where(Concept.id == concept_id)) is None:
        raise NotFound(f"the concept {concept_id} was erased in the meantime; nothing was stored", "no_such_concept")


async def png_answer(request: Request, storage: Storage, *, key: str, sha256: str) -> Response:
    """Answer with a stored PNG that never changes, or with 304 if the client has it. Raises StorageUnavailable."""
    headers = {"ETag": f'"{sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    png = await run_in_threadpool(storage.get, key, sha256)
    return Response(png, media_type="image/png", headers=headers)


def _store(storage: Storage, images: Sequence[Image], files: Sequence[bytes]) -> None:
    for image, file in zip(images, files, strict=True):
        storage.put_once(image.key, file, image.sha256)


async def erase_image(session: AsyncSession, storage: Storage, *, owner_id: UUID, image_id: UUID) -> None:
    """Delete the row and the object. The object goes before the commit, so a failed erasure can be repeated.

    Raises NotFound, StorageUnavailable.
    """
    key = await session.scalar(
        delete(Image).where(Image.owner_id == owner_id, Image.id == image_id).returning(Image.key)
    )
    if key is None:
        raise no_such_image(image_id)
    await run_in_threadpool(storage.delete, key)


def no_such_image(image_id: UUID) -> NotFound:
    return NotFound(f"there is no image {image_id} here; GET /v1/images lists yours", "no_such_image")
