"""Read the audit log."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field
from sqlalchemy import select

from api.auth import Admin
from api.domain.tables import AuditEvent
from api.schemas import Out
from api.services import SessionDep

router = APIRouter(tags=["audit"])


class AuditEventOut(Out):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "number": 12,
                    "at": "2026-11-22T21:00:00.123456Z",
                    "owner_id": "0198c0de-7e57-7000-8000-000000000009",
                    "api_key_id": "0198c0de-7e57-7000-8000-00000000000a",
                    "action": "job.cancel",
                    "object_id": "0198c0de-7e57-7000-8000-000000000002",
                    "outcome": "cancelled",
                    "request_id": "9f2c4e6a1b3d5f70",
                    "hash": "5f0c1f0c8d1b1c6a8a7e0d4e6a7c9e21b7d2f1f3c4d5e6f708192a3b4c5d6e7f",
                }
            ]
        }
    )

    number: int
    at: datetime
    owner_id: UUID | None = Field(description="the owner of the object; null if it has none")
    api_key_id: UUID | None = Field(description="the key that was used; null for a command on the server")
    action: str
    object_id: UUID | None
    outcome: str
    request_id: str | None
    hash: str = Field(description="SHA-256 of the previous row's hash and this row, in hex")


class AuditPage(Out):
    items: list[AuditEventOut]
    next: int | None = Field(description="pass it as `cursor` to get the next page; null on the last page")


@router.get("/audit", response_model=AuditPage)
async def list_audit_events(
    who: Admin,
    session: SessionDep,
    action: Annotated[str | None, Query(max_length=80)] = None,
    object_id: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: int | None = None,
) -> AuditPage:
    """List who did what, newest first. The owner `admin` sees every row, another owner the rows of their objects."""
    query = select(AuditEvent).order_by(AuditEvent.number.desc()).limit(limit + 1)
    if not who.operates:
        query = query.where(AuditEvent.owner_id == who.owner_id)
    if action is not None:
        query = query.where(AuditEvent.action == action)
    if object_id is not None:
        query = query.where(AuditEvent.object_id == object_id)
    if cursor is not None:
        query = query.where(AuditEvent.number < cursor)
    found = (await session.scalars(query)).all()
    items = [
        AuditEventOut(
            number=event.number,
            at=event.at,
            owner_id=event.owner_id,
            api_key_id=event.api_key_id,
            action=event.action,
            object_id=event.object_id,
            outcome=event.outcome,
            request_id=event.request_id,
            hash=event.hash.hex(),
        )
        for event in found[:limit]
    ]
    return AuditPage(items=items, next=items[-1].number if len(found) > limit else None)
