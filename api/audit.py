"""The dependency by which a route writes to the audit log."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Caller, caller
from api.domain import audit
from api.services import SessionDep


class Trail:
    """Record what a route did, with the request and the caller. `record` is the last thing a route does."""

    def __init__(self, session: AsyncSession, who: Caller, request_id: str) -> None:
        self._session, self._who, self._request_id = session, who, request_id

    async def record(self, action: str, object_id: UUID, outcome: str, *, owner_id: UUID | None = None) -> None:
        """Add a row. `owner_id` is needed where the object belongs to another owner than the caller."""
        await self._session.run_sync(
            audit.record,
            action=action,
            object_id=object_id,
            outcome=outcome,
            owner_id=owner_id or self._who.owner_id,
            api_key_id=self._who.api_key_id,
            request_id=self._request_id,
        )


async def _trail(request: Request, session: SessionDep, who: Annotated[Caller, Depends(caller)]) -> Trail:
    return Trail(session, who, request.state.request_id)


TrailDep = Annotated[Trail, Depends(_trail)]
