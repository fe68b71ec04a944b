"""What people vote on: the next group of a study in the voter's own order, the votes, and their counts."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from api.domain.errors import Conflict, NotFound
from api.domain.storage import Storage, study_prefix
from api.domain.tables import Study, StudyGroup, StudyImage, StudyVote


def _own(owner_id: UUID, study_id: UUID) -> Select[Study]:
    return select(Study).where(Study.owner_id == owner_id, Study.id == study_id)


async def own_study(session: AsyncSession, *, owner_id: UUID, study_id: UUID) -> Study:
    """Return the study and keep it from being deleted until the transaction ends. Raises NotFound."""
    study = await session.scalar(_own(owner_id, study_id).with_for_update(read=True, key_share=True))
    if study is None:
        raise _no_such_study(study_id)
    return study


def _no_such_study(study_id: UUID) -> NotFound:
    return NotFound(f"there is no study {study_id} here; GET /v1/studies lists yours", "no_such_study")


def shuffled(ids: Iterable[UUID], voter: str) -> list[UUID]:
    """Return the ids in an order that is random and always the same for one voter."""
    return sorted(ids, key=lambda one: hashlib.sha256(f"{voter}\0{one}".encode()).digest())


@dataclass(frozen=True)
class Progress:
    """How far a voter is."""

    voted: int
    groups: int
    group: StudyGroup | None
    """The next group; None after the last."""


async def progress_of(session: AsyncSession, study_id: UUID, voter: str) -> Progress:
    groups = {
        group.id: group for group in await session.scalars(select(StudyGroup).where(StudyGroup.study_id == study_id))
    }
    votes = select(StudyVote.group_id).where(StudyVote.group_id.in_(groups), StudyVote.voter == voter)
    voted = set(await session.scalars(votes))
    left = [one for one in shuffled(groups, voter) if one not in voted]
    return Progress(len(voted), len(groups), groups[left[0]] if left else None)


async def images_of(session: AsyncSession, group: StudyGroup, voter: str) -> list[UUID]:
    """Return the ids of the group's images in the voter's order."""
    return shuffled(await session.scalars(select(StudyImage.id).where(StudyImage.group_id == group.id)), voter)


async def references_of(session: AsyncSession, group: StudyGroup) -> list[UUID]:
    """Return the ids of the photos of the group's concept."""
    photos = (
        select(StudyImage.id)
        .where(StudyImage.study_id == group.study_id, StudyImage.concept == group.concept)
        .where(StudyImage.group_id.is_(None))
        .order_by(StudyImage.position)
    )
    return list(await session.scalars(photos))


async def add_vote(session: AsyncSession, study_id: UUID, *, image_id: UUID, voter: str) -> None:
    """Count the vote. Raises NotFound for an image of no group here, and Conflict for a second vote on the group."""
    group = select(StudyImage.group_id).where(StudyImage.study_id == study_id, StudyImage.id == image_id)
    group_id = await session.scalar(group)
    if group_id is None:
        raise NotFound(f"there is no image {image_id} in a group of this study", "no_such_study_image")
    vote = insert(StudyVote).values(group_id=group_id, image_id=image_id, voter=voter)
    added = await session.scalar(vote.on_conflict_do_nothing().returning(StudyVote.id))
    if added is None:
        raise Conflict(f"{voter!r} has voted on this group already; ask for the next one", "already_voted")


async def chosen_counts(session: AsyncSession, study_id: UUID) -> dict[str, int]:
    """Return the number of votes by the method of the chosen image."""
    counts = (
        select(StudyImage.method, func.count())
        .join(StudyVote, StudyVote.image_id == StudyImage.id)
        .where(StudyImage.study_id == study_id)
        .group_by(StudyImage.method)
    )
    return {str(method): count for method, count in await session.execute(counts)}


@dataclass(frozen=True)
class CastVote:
    voter: str
    concept: str
    prompt: str
    method: str
    created_at: datetime


async def votes_of(session: AsyncSession, study_id: UUID) -> list[CastVote]:
    """Return all votes, oldest first."""
    votes = (
        select(StudyVote.voter, StudyGroup.concept, StudyGroup.prompt, StudyImage.method, StudyVote.created_at)
        .join(StudyGroup, StudyGroup.id == StudyVote.group_id)
        .join(StudyImage, StudyImage.id == StudyVote.image_id)
        .where(StudyGroup.study_id == study_id)
        .order_by(StudyVote.id)
    )
    return [
        CastVote(voter, concept, prompt, str(method), at)
        for voter, concept, prompt, method, at in await session.execute(votes)
    ]


async def erase_study(session: AsyncSession, storage: Storage, *, owner_id: UUID, study_id: UUID) -> None:
    """Delete the study with its votes and images. The images go before the commit, so it can be repeated.

    Raises NotFound, StorageUnavailable.
    """
    if await session.scalar(_own(owner_id, study_id).with_for_update()) is None:  # waits for votes that are being cast
        raise _no_such_study(study_id)
    groups = select(StudyGroup.id).where(StudyGroup.study_id == study_id)
    for statement in (
        delete(StudyVote).where(StudyVote.group_id.in_(groups)),
        delete(StudyImage).where(StudyImage.study_id == study_id),
        delete(StudyGroup).where(StudyGroup.study_id == study_id),
        delete(Study).where(Study.id == study_id),
    ):
        await session.execute(statement.execution_options(synchronize_session=False))
    await run_in_threadpool(storage.delete_prefix, study_prefix(study_id))
