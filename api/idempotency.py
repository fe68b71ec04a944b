"""`Idempotency-Key`: a create that is sent twice is executed once, and both get the same answer.

The key's row is written in the transaction of what it creates: either both exist or neither.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Self, TypeVar
from uuid import UUID

from fastapi import Header, Response
from pydantic import BaseModel
from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import UploadFile

from api.domain.errors import Invalid
from api.domain.tables import IdempotencyKey

RETENTION = timedelta(hours=24)
_CHUNK_BYTES = 1 << 20

AnyOut = TypeVar("AnyOut", bound=BaseModel)
IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="any text, new for each new request; the same key and body within a day return the same answer",
    ),
]


class IdempotentRequest:
    """A create request. `answer` is its stored answer if it was sent before, else None."""

    def __init__(self, owner_id: UUID, key: str | None, request_sha256: str) -> None:
        self.answer: dict[str, Any] | None = None
        self._owner_id, self._key, self._request_sha256 = owner_id, key, request_sha256

    @classmethod
    async def find(
        cls, session: AsyncSession, owner_id: UUID, key: str | None, route: str, fields: Mapping[str, Any],
        files: list[UploadFile],
    ) -> Self:  # fmt: skip
        """Look up the request by its key. Raises Invalid if the key was used with another route, `fields` or files."""
        if key is None:
            return cls(owner_id, None, "")
        request = cls(owner_id, key, await _fingerprint(route, fields, files))
        await request._look_up(session)
        return request

    def replay(self, response: Response, kind: type[AnyOut]) -> AnyOut:
        """Return the earlier answer and mark it as a replay."""
        assert self.answer is not None
        response.headers["Location"] = self.answer["location"]
        response.headers["Idempotent-Replayed"] = "true"
        return kind.model_validate(self.answer["body"])

    async def save_answer(self, session: AsyncSession, response: Response, accepted: BaseModel) -> bool:
        """Store the answer in the session's transaction. Roll back and return False if the same request was faster."""
        if self._key is None:
            return True
        await session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at <= func.now() - RETENTION))
        answer = {"location": response.headers["Location"], "body": accepted.model_dump(mode="json")}
        session.add(
            IdempotencyKey(owner_id=self._owner_id, key=self._key, request_sha256=self._request_sha256, answer=answer)
        )
        try:
            await session.flush()
        except IntegrityError:
            if not await self.lost_race(session):
                raise
            return False
        return True

    async def lost_race(self, session: AsyncSession) -> bool:
        """Roll back after an IntegrityError. Return whether the same request, sent at the same moment, was answered."""
        await session.rollback()
        await self._look_up(session)
        return self.answer is not None

    async def _look_up(self, session: AsyncSession) -> None:
        if self._key is None:
            return
        known = await session.scalar(
            select(IdempotencyKey).where(
                IdempotencyKey.owner_id == self._owner_id,
                IdempotencyKey.key == self._key,
                IdempotencyKey.created_at > func.now() - RETENTION,
            )
        )
        if known is None:
            return
        if known.request_sha256 != self._request_sha256:
            raise Invalid(
                f"the Idempotency-Key {self._key!r} was used for another request; use a new key for a new request",
                "idempotency_key_reused",
            )
        self.answer = known.answer


def sent_fields(body: BaseModel) -> dict[str, Any]:
    """Return the fields that were sent: a random seed would differ each time."""
    return body.model_dump(mode="json", exclude_unset=True)


async def _fingerprint(route: str, fields: Mapping[str, Any], files: list[UploadFile]) -> str:
    digests = []
    for file in files:
        digest = hashlib.sha256()
        while chunk := await file.read(_CHUNK_BYTES):
            digest.update(chunk)
        await file.seek(0)
        digests.append(digest.hexdigest())
    return hashlib.sha256(json.dumps([route, dict(fields), digests], sort_keys=True).encode()).hexdigest()
