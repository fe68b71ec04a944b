"""Find the concept that a generate request names, with what the engine needs for it."""

from dataclasses import dataclass
from functools import cache
from uuid import UUID

from sqlalchemy import Select, bindparam, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from api.concept_refusals import base_changed, not_ready, version_of_another_base
from api.domain.errors import NO_FAST_DECODER, Conflict, Invalid, NotFound
from api.domain.replaced_bases import obstacle, present_base
from api.domain.settings import DecoderName
from api.domain.tables import Bundle, Concept, Job, ServedBase
from api.engine_client import BundleKey
from api.generate_schemas import GenerateIn


@dataclass(frozen=True)
class Subject:
    """The subject of a generate request: a trained concept, or the untouched base with the concept's class noun."""

    concept_id: UUID
    class_noun: str
    bundle: BundleKey | None
    """None for the untouched base."""
    version: int | None
    resolution: int | None
    """Side of an image in pixels; None until an engine has announced the base."""
    decoder: DecoderName


async def find_subject(
    session: AsyncSession, owner_id: UUID, body: GenerateIn, *, default_decoder: DecoderName
) -> Subject:
    """Find the concept, its newest bundle (or the version asked for) and the served base in one SELECT.

    Raises NotFound; Conflict if the concept is not ready or was trained on another base than the one served; Invalid
    if the request names a decoder that the base does not have.
    """
    wanted: dict[str, object] = {
        "owner_id": owner_id,
        "wanted_id": body.concept_id or _as_id(body.concept),
        "name": body.concept,
    }
    if body.version is not None:
        wanted["version"] = body.version
    row = (await session.execute(_statement(of_version=body.version is not None), wanted)).one_or_none()
    if row is None:
        raise NotFound(
            f"there is no concept {body.concept_id or repr(body.concept)} here; GET /v1/concepts lists yours",
            "no_such_concept",
            object_id=body.concept_id,
        )
    concept: Concept = row.Concept
    if row.key is None and body.version is not None:
        raise NotFound(
            f"{concept.name!r} has no trained version {body.version}; GET /v1/concepts/{concept.id} lists them",
            "no_such_version",
        )
    if not body.untouched:
        if row.key is None:
            raise await _not_ready(session, concept)
        if None not in (row.base_sha256, row.manifest_sha256) and row.base_sha256 != row.manifest_sha256:
            if body.version is not None:
                raise version_of_another_base(concept.name, body.version)
            raise base_changed(concept, await session.scalar(select(obstacle()).where(Concept.id == concept.id)))
    return Subject(
        concept_id=concept.id,
        class_noun=concept.class_noun,
        bundle=None if body.untouched else BundleKey(row.key, row.sha256),
        version=None if body.untouched else row.version,
        resolution=row.resolution,
        decoder=_decoder(body, row.no_fast_decoder, default_decoder),
    )


@cache  # SQLAlchemy takes longer to build it than PostgreSQL to run it
def _statement(
    *, of_version: bool
) -> Select[Concept, str | None, str | None, str | None, int | None, str, int, str | None]:
    wanted_id = bindparam("wanted_id", type_=Concept.id.type)
    newest = (
        select(Bundle.key, Bundle.sha256, Bundle.base_sha256, Bundle.version)
        .where(Bundle.concept_id == Concept.id)
        .order_by(Bundle.version.desc())
        .limit(1)
    )
    if of_version:
        newest = newest.where(Bundle.version == bindparam("version"))
    bundle = newest.lateral("bundle")
    columns = (ServedBase.manifest_sha256, ServedBase.resolution, ServedBase.no_fast_decoder)
    base = present_base().with_only_columns(*columns).subquery("base")
    return (
        select(
            Concept,
            bundle.c.key,
            bundle.c.sha256,
            bundle.c.base_sha256,
            bundle.c.version,
            base.c.manifest_sha256,
            base.c.resolution,
            base.c.no_fast_decoder,
        )
        .select_from(Concept)
        .outerjoin(bundle, onclause=true())
        .outerjoin(base, onclause=true())
        .where(
            Concept.owner_id == bindparam("owner_id"), or_(Concept.id == wanted_id, Concept.name == bindparam("name"))
        )
        .order_by((Concept.id == wanted_id).desc())  # an id goes before a name that is spelled like one
        .limit(1)
    )


async def _not_ready(session: AsyncSession, concept: Concept) -> Conflict:
    """Return the error for a concept without a bundle: the state of its newest job."""
    job = (
        await session.scalars(select(Job).where(Job.concept_id == concept.id).order_by(Job.version.desc()).limit(1))
    ).one()
    return not_ready(concept.name, job.id, job.state, job.error_code, job.error_detail)


def _decoder(body: GenerateIn, no_fast_decoder: str | None, default: DecoderName) -> DecoderName:
    """Return the decoder that the request names, else the default where the base has it. Raises Invalid."""
    if no_fast_decoder is None:
        return body.decoder or default
    if body.decoder == "fast":
        errors = [{"field": "decoder", "message": no_fast_decoder}]
        raise Invalid(no_fast_decoder, NO_FAST_DECODER, errors=errors)
    return "full"


def _as_id(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None
