"""User studies: people choose the best image of each group without knowing which method made it."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from api import studies
from api.audit import TrailDep
from api.auth import Caller, Generator, Reader, Trainer
from api.domain.errors import NotFound
from api.domain.tables import Study, StudyGroup, StudyImage, StudyVote
from api.public_address import link
from api.routes.preferences import wilson
from api.schemas import In, Name, Out
from api.services import ServicesDep, SessionDep
from api.stored_images import png_answer

router = APIRouter(tags=["studies"])

Format = Literal["json", "csv"]
Voter = Annotated[
    Name | None, Field(description="name of the person, where several people use one key; null is the key itself")
]
_CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {}}}}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class StudyOut(Out):
    """A study. It does not name the methods: only the results do."""

    id: UUID
    title: str
    groups: int
    methods: int = Field(description="number of images in each group")
    voters: int = Field(description="people who have voted at least once")
    votes: int
    created_at: datetime


class StudyPage(Out):
    items: list[StudyOut]
    next: str | None


class StudyImageOut(Out):
    id: UUID
    url: str


class StudyGroupOut(Out):
    """What a person sees of a group. The images are in this person's own random order."""

    class_noun: str
    prompt: str
    reference_urls: list[str]
    images: list[StudyImageOut]


class NextGroup(Out):
    voted: int = Field(description="groups on which this person has voted")
    groups: int
    group: StudyGroupOut | None = Field(description="the next group; null after the last")


class StudyVoteIn(In):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image_id": "8a6e0f5e-1f0e-4c8e-9a44-0d1f6f1c2b3a", "voter": "Ana"}]}
    )

    image_id: UUID = Field(description="the best image of its group")
    voter: Voter = None


class MethodResult(Out):
    name: str
    label: str
    chosen: int = Field(description="votes for images of the method")
    share: float | None = Field(description="share in all votes; null without a vote")
    interval: tuple[float, float] | None = Field(description="95 % Wilson interval of `share`")


class ResultsOut(Out):
    study_id: UUID
    title: str
    voters: int
    votes: int
    methods: list[MethodResult] = Field(description="the one chosen most often first")


class StudyVoteOut(Out):
    voter: str
    concept: str
    prompt: str
    method: str
    created_at: datetime

    @classmethod
    def of(cls, vote: studies.CastVote) -> Self:
        return cls(
            voter=vote.voter, concept=vote.concept, prompt=vote.prompt, method=vote.method, created_at=vote.created_at
        )


class StudyVoteList(Out):
    items: list[StudyVoteOut]


@router.get("/studies", response_model=StudyPage)
async def list_studies(
    who: Reader,
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: UUID | None = None,
) -> StudyPage:
    """List your user studies, newest first."""
    query = _described().where(Study.owner_id == who.owner_id).order_by(Study.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(Study.id < cursor)
    found = (await session.execute(query)).all()
    items = [_out(*row) for row in found[:limit]]
    return StudyPage(items=items, next=str(items[-1].id) if len(found) > limit else None)


@router.get("/studies/{study_id}", response_model=StudyOut)
async def read_study(study_id: UUID, who: Reader, session: SessionDep) -> StudyOut:
    """Read a study without the names of its methods."""
    await studies.own_study(session, owner_id=who.owner_id, study_id=study_id)
    return _out(*(await session.execute(_described().where(Study.id == study_id))).one())


def _described() -> Select[Study, int, int, int]:
    in_study = StudyGroup.study_id == Study.id
    votes = select(func.count()).select_from(StudyVote).join(StudyGroup, StudyGroup.id == StudyVote.group_id)
    return select(
        Study,
        select(func.count()).select_from(StudyGroup).where(in_study).scalar_subquery(),
        votes.with_only_columns(func.count(StudyVote.voter.distinct())).where(in_study).scalar_subquery(),
        votes.where(in_study).scalar_subquery(),
    )


def _out(study: Study, groups: int, voters: int, votes: int) -> StudyOut:
    return StudyOut(
        id=study.id,
        title=study.title,
        groups=groups,
        methods=len(study.methods),
        voters=voters,
        votes=votes,
        created_at=study.created_at,
    )


@router.delete("/studies/{study_id}", status_code=204)
async def delete_study(
    study_id: UUID, services: ServicesDep, who: Trainer, session: SessionDep, trail: TrailDep
) -> None:
    """Delete a study for good, with its images and votes."""
    await studies.erase_study(session, services.storage, owner_id=who.owner_id, study_id=study_id)
    await trail.record("study.delete", study_id, "deleted")


@router.get("/studies/{study_id}/next", response_model=NextGroup)
async def read_next_group(
    study_id: UUID,
    who: Reader,
    session: SessionDep,
    voter: Annotated[Name | None, Query(description="as in `POST /v1/studies/{id}/votes`")] = None,
) -> NextGroup:
    """Read the next group that this person has not voted on, in an order that is random for each person."""
    await studies.own_study(session, owner_id=who.owner_id, study_id=study_id)
    return await _next(session, study_id, _name_of(voter, who))


@router.post("/studies/{study_id}/votes", status_code=201, response_model=NextGroup)
async def vote(study_id: UUID, body: StudyVoteIn, who: Generator, session: SessionDep) -> NextGroup:
    """Vote for the best image of a group, once for each group and person. Returns the next group."""
    voter = _name_of(body.voter, who)
    await studies.own_study(session, owner_id=who.owner_id, study_id=study_id)
    await studies.add_vote(session, study_id, image_id=body.image_id, voter=voter)
    return await _next(session, study_id, voter)


def _name_of(voter: str | None, who: Caller) -> str:
    return voter or f"key {who.api_key_id}"


async def _next(session: AsyncSession, study_id: UUID, voter: str) -> NextGroup:
    progress = await studies.progress_of(session, study_id, voter)
    group = None
    if progress.group is not None:
        references = await studies.references_of(session, progress.group)
        images = await studies.images_of(session, progress.group, voter)
        group = StudyGroupOut(
            class_noun=progress.group.class_noun,
            prompt=progress.group.prompt,
            reference_urls=[_url(study_id, one) for one in references],
            images=[StudyImageOut(id=one, url=_url(study_id, one)) for one in images],
        )
    return NextGroup(voted=progress.voted, groups=progress.groups, group=group)


def _url(study_id: UUID, image_id: UUID) -> str:
    return link(f"/v1/studies/{study_id}/images/{image_id}")


@router.get(
    "/studies/{study_id}/images/{study_image_id}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
async def read_study_image(
    study_id: UUID, study_image_id: UUID, request: Request, services: ServicesDep, who: Reader, session: SessionDep
) -> Response:
    """Read an image of a study. Neither its address nor its file tells the method."""
    image = await session.scalar(
        select(StudyImage)
        .join(Study, Study.id == StudyImage.study_id)
        .where(Study.owner_id == who.owner_id, Study.id == study_id, StudyImage.id == study_image_id)
    )
    if image is None:
        raise NotFound(f"there is no image {study_image_id} of a study {study_id} here", "no_such_study_image")
    return await png_answer(request, services.storage, key=image.key, sha256=image.sha256)


@router.get("/studies/{study_id}/results", response_model=ResultsOut, responses=_CSV)
async def read_results(
    study_id: UUID, who: Reader, session: SessionDep, format: Format = "json"
) -> ResultsOut | Response:
    """Read how often each method was chosen, with confidence intervals, as JSON or CSV."""
    results = await results_of(study_id, who, session)
    if format == "json":
        return results
    rows = [
        (one.name, one.label, one.chosen, results.votes, one.share, *(one.interval or (None, None)))
        for one in results.methods
    ]
    return _csv(("method", "label", "chosen", "votes", "share", "low", "high"), rows)


async def results_of(study_id: UUID, who: Caller, session: AsyncSession) -> ResultsOut:
    study = await read_study(study_id, who, session)
    methods = (await studies.own_study(session, owner_id=who.owner_id, study_id=study_id)).methods
    counts = await studies.chosen_counts(session, study_id)
    results = []
    for method in methods:
        chosen = counts.get(method["name"], 0)
        results.append(
            MethodResult(
                name=method["name"],
                label=method["label"],
                chosen=chosen,
                share=chosen / study.votes if study.votes else None,
                interval=wilson(chosen, study.votes) if study.votes else None,
            )
        )
    results.sort(key=lambda one: -one.chosen)
    return ResultsOut(study_id=study_id, title=study.title, voters=study.voters, votes=study.votes, methods=results)


@router.get("/studies/{study_id}/votes", response_model=StudyVoteList, responses=_CSV)
async def read_votes(
    study_id: UUID, who: Reader, session: SessionDep, format: Format = "json"
) -> StudyVoteList | Response:
    """Read every vote, oldest first, as JSON or CSV, for statistics of your own."""
    await studies.own_study(session, owner_id=who.owner_id, study_id=study_id)
    items = [StudyVoteOut.of(vote) for vote in await studies.votes_of(session, study_id)]
    if format == "json":
        return StudyVoteList(items=items)
    rows = [(one.voter, one.concept, one.prompt, one.method, one.created_at.isoformat()) for one in items]
    return _csv(("voter", "concept", "prompt", "method", "created_at"), rows)


def _csv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> Response:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(names)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return Response(file.getvalue(), media_type="text/csv")


def _cell(value: object) -> object:
    """Keep a spreadsheet from running a text as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
