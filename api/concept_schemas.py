"""Response bodies of concepts."""

from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field

from api.domain.tables import Bundle, Concept, Consent, ConsentSource
from api.public_address import link
from api.schemas import JobOut, Out, VerdictOut, shown_of_report

ConceptState = Literal["queued", "running", "ready", "base_changed", "failed", "cancelled"]


class ReferenceOut(Out):
    position: int
    width: int
    height: int
    url: str
    check_score: float | None = Field(description="score of the image check, 0 to 1; null if it is off")


class BundleOut(Out):
    version: int
    sha256: str
    size: int
    created_at: datetime


class ReportOut(Out):
    """Scores of the trained concept and of the untouched student, at the same prompts and seeds."""

    prompts: list[str]
    seeds: list[int]
    personalised: dict[str, float | None] = Field(
        description="identity, text_fit, scene_accuracy, clip_image, dino, diversity, closest, copies"
    )
    untouched: dict[str, float | None]
    fast_decoder: dict[str, float] | None = Field(
        None,
        description="`identity` of the trained concept's images by the fast decoder, and `identity_cost`, by how much "
        "it is lower; null where the base has none",
    )


class ConceptProblem(Out):
    """What keeps a trained concept from generating images."""

    code: str = Field(
        description="as `/generate` answers: `base_changed` if the base was replaced since the training, or "
        "`concept_in_training` while it is trained again for that reason"
    )
    detail: str
    can_learn_again: bool = Field(description="whether `POST /v1/concepts/{id}/versions` would accept it now")


class ConceptOut(Out):
    id: UUID
    name: str
    class_noun: str
    base: str
    state: ConceptState = Field(
        description="`ready` if a version generates images; `base_changed` if one would, but the base was replaced "
        "since; else the state of the newest job"
    )
    method: str = Field(description="of the newest job: `opad` or `custom_diffusion`")
    problem: ConceptProblem | None = Field(None, description="null unless the base was replaced since the training")
    bundle: BundleOut | None
    versions: list[int] = Field(description="the trained versions, oldest first")
    cover_url: str = Field(description="URL of the first photo")
    verdict: VerdictOut | None = Field(description="of the newest version; null if it could not be evaluated")
    image_urls: list[str] = Field(description="URLs of images from the report card of the newest version")
    created_at: datetime

    @classmethod
    def of(
        cls,
        concept: Concept,
        state: ConceptState,
        method: str,
        problem: ConceptProblem | None,
        bundle: Bundle | None,
        versions: list[int],
    ) -> Self:
        """Build it from the concept's own row."""
        return cls(**_concept_fields(concept, state, method, problem, bundle, versions))


class ConsentOut(Out):
    source: ConsentSource = Field(description="`statement`: declared with the request; `policy`: by the installation")
    statement_version: str
    given_at: datetime
    api_key_id: UUID = Field(description="the key that uploaded the photos")

    @classmethod
    def of(cls, consent: Consent) -> Self:
        return cls(
            source=consent.source,
            statement_version=consent.statement_version,
            given_at=consent.given_at,
            api_key_id=consent.api_key_id,
        )


class ConceptDetail(ConceptOut):
    references: list[ReferenceOut]
    jobs: list[JobOut]
    consent: ConsentOut | None = Field(description="null for a concept that is older than this record")
    report: ReportOut | None = Field(description="scores of the newest version; null if it could not be evaluated")

    @classmethod
    def of_all(
        cls,
        concept: Concept,
        state: ConceptState,
        problem: ConceptProblem | None,
        jobs: list[JobOut],
        consent: Consent | None,
    ) -> Self:
        """Build it from a concept whose references and bundles are loaded, and its jobs, newest first."""
        references = [
            ReferenceOut(
                position=reference.position,
                width=reference.width,
                height=reference.height,
                url=link(f"/v1/concepts/{concept.id}/references/{reference.position}"),
                check_score=reference.check_score,
            )
            for reference in concept.references
        ]
        newest = concept.bundles[-1] if concept.bundles else None
        report = ReportOut(**newest.report) if newest and newest.report else None
        fields = _concept_fields(
            concept,
            state,
            jobs[0].method,
            problem,
            newest,
            [bundle.version for bundle in concept.bundles],
        )
        given = None if consent is None else ConsentOut.of(consent)
        return cls(**fields, references=references, jobs=jobs, report=report, consent=given)


def _concept_fields(
    concept: Concept,
    state: ConceptState,
    method: str,
    problem: ConceptProblem | None,
    bundle: Bundle | None,
    versions: list[int],
) -> dict[str, Any]:
    return {
        "id": concept.id,
        "name": concept.name,
        "class_noun": concept.class_noun,
        "base": concept.base,
        "state": state,
        "method": method,
        "problem": problem,
        "bundle": BundleOut.model_validate(bundle, from_attributes=True) if bundle else None,
        **shown_of_report(bundle),
        "versions": versions,
        "cover_url": link(f"/v1/concepts/{concept.id}/references/1"),
        "created_at": concept.created_at,
    }


class ConceptAccepted(Out):
    concept: ConceptDetail
    job: JobOut
    warnings: list[str] = Field([], description="what the base cannot learn from photos")


class ConceptPage(Out):
    items: list[ConceptOut]
    next: str | None = Field(description="pass it as `cursor` to get the next page; null on the last page")
