"""Preference tests: blind votes between two images of the same prompt and seed, and their counts."""

import math
from collections import Counter
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import ConfigDict, Field, model_validator
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Caller, Generator, Reader
from api.domain.errors import NotFound
from api.domain.tables import Concept, PreferenceVote
from api.schemas import MAX_SEED, MAX_VERSION, In, Out, Prompt
from api.services import SessionDep

router = APIRouter(tags=["preferences"])

UNTOUCHED = 0
_Z95 = 1.959964

Version = Annotated[int, Field(ge=0, le=MAX_VERSION, description="version of the concept; 0 is the untouched student")]


class VoteIn(In):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"preferred": 2, "other": 1, "prompt": "a photo of <concept> on a beach", "seed": 7}]
        }
    )

    preferred: Version
    other: Version
    tie: bool = Field(False, description="neither was better; then `preferred` and `other` may be in any order")
    prompt: Prompt
    seed: int = Field(ge=0, le=MAX_SEED)

    @model_validator(mode="after")
    def _two_sides(self) -> "VoteIn":
        if self.preferred == self.other:
            raise ValueError(f"both sides are version {self.other}; compare two different ones")
        return self


class PairOut(Out):
    first_version: Version
    second_version: Version
    first: int = Field(description="votes for the first version")
    second: int
    neither: int
    first_share: float | None = Field(description="share of the first version in the votes for either")
    interval: tuple[float, float] | None = Field(description="95 % Wilson interval of `first_share`")


class PreferenceOut(Out):
    concept_id: UUID
    pairs: list[PairOut]


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), valid for few trials and shares near 0 and 1."""
    share, z2 = successes / trials, _Z95**2
    center = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, center - half), min(1.0, center + half)


async def _require_own(session: AsyncSession, who: Caller, concept_id: UUID) -> None:
    own = select(Concept.id).where(Concept.owner_id == who.owner_id, Concept.id == concept_id)
    if await session.scalar(own.with_for_update(key_share=True)) is None:
        raise NotFound(f"there is no concept {concept_id} here; GET /v1/concepts lists yours", "no_such_concept")


@router.post("/concepts/{concept_id}/preferences", status_code=201, response_model=PreferenceOut)
async def vote(concept_id: UUID, body: VoteIn, who: Generator, session: SessionDep) -> PreferenceOut:
    """Vote for the better of two images. Returns the counts so far."""
    await _require_own(session, who, concept_id)
    first, second = sorted((body.preferred, body.other))
    chosen = "neither" if body.tie else "first" if body.preferred == first else "second"
    session.add(
        PreferenceVote(
            concept_id=concept_id,
            first_version=first,
            second_version=second,
            chosen=chosen,
            prompt=body.prompt,
            seed=body.seed,
        )
    )
    await session.flush()
    return await _counted(session, concept_id)


@router.get("/concepts/{concept_id}/preferences", response_model=PreferenceOut)
async def read_preferences(concept_id: UUID, who: Reader, session: SessionDep) -> PreferenceOut:
    """Read how often each version was preferred to another, with confidence intervals."""
    await _require_own(session, who, concept_id)
    return await _counted(session, concept_id)


async def _counted(session: AsyncSession, concept_id: UUID) -> PreferenceOut:
    votes = PreferenceVote
    rows = await session.execute(
        select(votes.first_version, votes.second_version, votes.chosen, func.count())
        .where(votes.concept_id == concept_id)
        .group_by(votes.first_version, votes.second_version, votes.chosen)
    )
    pairs: dict[tuple[int, int], Counter[str]] = {}
    for first, second, chosen, count in rows:
        pairs.setdefault((first, second), Counter())[chosen] = count
    return PreferenceOut(concept_id=concept_id, pairs=[_pair(*sides, votes) for sides, votes in sorted(pairs.items())])


def _pair(first: int, second: int, votes: Counter[str]) -> PairOut:
    decided = votes["first"] + votes["second"]
    return PairOut(
        first_version=first,
        second_version=second,
        first=votes["first"],
        second=votes["second"],
        neither=votes["neither"],
        first_share=votes["first"] / decided if decided else None,
        interval=wilson(votes["first"], decided) if decided else None,
    )
