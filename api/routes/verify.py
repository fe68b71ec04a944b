"""Say whether an image carries marks of its origin."""

from typing import Annotated, Any, Literal
from uuid import NAMESPACE_URL, UUID, uuid5

import structlog
from fastapi import APIRouter, Depends, Request
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from api.auth import Caller, caller, require, session_token
from api.domain.credentials import trusted_certificates
from api.domain.errors import Invalid, TooManyRequests, UnsupportedMedia
from api.domain.provenance import summary
from api.domain.tables import Concept
from api.limits import count_request
from api.schemas import Out, Problem
from api.services import Services, ServicesDep, SessionDep
from api.uploads import describe, read_form
from opad_core.reference_images import Refused

PER_MINUTE = 20
"""Images that one address may have verified without a key in a minute; each one starts a process."""

router = APIRouter(tags=["images"])

log = structlog.get_logger()


class ClaimedOrigin(Out):
    """What the marks of an OPAD image name. It is proven only with `credentials` `valid` and `ours` true."""

    model: str | None = None
    concept: str | None = None
    bundle: str | None = Field(None, description="SHA-256 of the version")
    seed: str | None = None
    decoder: str | None = None


class OwnConcept(Out):
    id: UUID
    name: str


class VerifyOut(Out):
    credentials: Literal["none", "valid", "altered", "invalid"] = Field(
        description="Content Credentials (C2PA): `valid` means signed and unchanged, `altered` changed after it was "
        "signed, `invalid` that the signature is not right"
    )
    ours: bool = Field(description="this installation signed it")
    signer: str | None = Field(description="organization in the certificate; anybody can make one with any name")
    xmp: bool = Field(description="its XMP metadata, which anybody can write, says AI-generated")
    generated: bool = Field(description="valid credentials or XMP say that a model generated it, or parts of it")
    partly: bool = Field(description="they say so of parts alone, as on a sheet that also shows photos")
    origin: ClaimedOrigin | None = Field(description="what the marks name; null if nothing")
    concept: OwnConcept | None = Field(description="the concept that the marks name, if it is yours")
    summary: str = Field(description="the result in words")


async def verifier(request: Request, services: ServicesDep, session: SessionDep) -> Caller | None:
    """Return the caller; None for one without a key, where the installation allows that."""
    sent = request.headers.get("authorization") is not None or session_token(request) is not None
    if not sent and services.settings.verify_without_key:
        await _count_address(request, services)
        return None
    who = await require("read")(await caller(request, session))
    await count_request(request, services, who)
    return who


_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP or HEIC"}
                    },
                },
            }
        },
    }
}


@router.post("/verify", response_model=VerifyOut, openapi_extra=_FORM, responses={415: {"model": Problem}})
async def verify_image(
    request: Request, services: ServicesDep, who: Annotated[Caller | None, Depends(verifier)], session: SessionDep
) -> VerifyOut:
    """Read the marks of an image: who signed it, whether it was altered since, and which of your concepts it shows.

    The image is not stored. That no mark is found proves nothing: marks can be removed.
    """
    await session.rollback()  # returns the connection while the body arrives
    form = await read_form(request, services.settings, fields="one file, `image`")
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) != 1 or "image" not in form:
            raise Invalid(f"needs one file in the field `image`, got {len(files)} files", "one_image")
        trusted = await run_in_threadpool(_trusted, services)
        found = await services.decoder.read_marks(files[0].file, trusted=trusted or "")
        if isinstance(found, Refused):
            error = UnsupportedMedia if found.kind == "format" else Invalid
            raise error(f"{describe(0, files[0].filename)} {found}", f"image_{found.kind}")
    finally:
        await form.close()
    origin = ClaimedOrigin(**found["origin"]) if found["origin"] else None
    concept = await _own_concept(session, who, origin)
    return VerifyOut(
        credentials=found["credentials"],
        ours=found["ours"],
        signer=found["signer"],
        xmp=found["xmp"],
        generated=found["generated"],
        partly=found["partly"],
        origin=origin,
        concept=concept,
        summary=summary(found, concept.name if concept else None, certificate_read=trusted is not None),
    )


def _trusted(services: Services) -> str | None:
    """Return this installation's certificates as PEM, or None if they cannot be read."""
    try:
        return trusted_certificates(services.settings.signing_certificates)
    except ValueError as error:
        log.error("certificate.unreadable", reason=str(error))
        return None


async def _own_concept(session: AsyncSession, who: Caller | None, origin: ClaimedOrigin | None) -> OwnConcept | None:
    try:
        concept_id = UUID(origin.concept) if who and origin and origin.concept else None
    except ValueError:
        return None
    if who is None or concept_id is None:
        return None
    mine = select(Concept.id, Concept.name).where(Concept.owner_id == who.owner_id, Concept.id == concept_id)
    row = (await session.execute(mine)).one_or_none()
    return OwnConcept(id=row.id, name=row.name) if row else None


async def _count_address(request: Request, services: Services) -> None:
    address = request.client.host if request.client else ""
    taken = await services.limiter.take("verify", uuid5(NAMESPACE_URL, address), quota=PER_MINUTE, cost=1)
    if taken and not taken[0]:
        raise TooManyRequests(
            f"this address asked for more than {PER_MINUTE} images in a minute; wait a minute, or send a key",
            "rate_limited",
            retry_after=taken[1].reset_seconds,
        )
