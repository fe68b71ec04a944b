"""API keys: create, list, rotate and revoke them."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.audit import TrailDep
from api.auth import Admin, Caller
from api.domain import keys
from api.domain.errors import Conflict, Forbidden, NotFound
from api.domain.tables import ApiKey, Owner
from api.domain.text_rules import as_read
from api.public_address import link
from api.schemas import In, Name, Out
from api.services import SessionDep

router = APIRouter(tags=["keys"])

MAX_GRACE_SECONDS = 7 * 24 * 3600
_EXAMPLE: dict[str, Any] = {
    "id": "0198c0de-7e57-7000-8000-00000000000a",
    "name": "photo frame",
    "owner": "alice",
    "scopes": ["generate", "read"],
    "limits": {"images_per_minute": 60},
    "state": "active",
    "created_at": "2026-11-22T21:00:00Z",
    "last_used_at": "2026-11-22T21:05:00Z",
    "expires_at": "2027-11-22T00:00:00Z",
    "revoked_at": None,
    "previous_valid_until": None,
}
Scope = Literal["admin", "train", "generate", "read"]


def _distinct(scopes: list[Scope]) -> list[Scope]:
    return [scope for scope in keys.SCOPES if scope in scopes]


def _in_future(value: datetime) -> datetime:
    if value <= datetime.now(UTC):
        raise ValueError(
            f"{value.isoformat()} is past; give a future time, or leave it out for a key that does not expire"
        )
    return value


class KeyLimits(In):
    """The limits in which this key differs from the installation's settings; 0 is no limit."""

    requests_per_minute: int | None = Field(None, ge=0)
    images_per_minute: int | None = Field(None, ge=0)
    max_concepts: int | None = Field(None, ge=0, description="concepts that its owner may have")
    training_minutes_per_day: int | None = Field(None, ge=0, description="of its owner, counted from 00:00 UTC")


class KeyIn(In):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "photo frame", "scopes": ["generate", "read"]},
                {
                    "name": "intern",
                    "owner": "alice",
                    "scopes": ["train", "generate", "read"],
                    "expires_at": "2027-11-22T00:00:00Z",
                    "limits": {"images_per_minute": 60, "max_concepts": 3, "training_minutes_per_day": 30},
                },
            ]
        }
    )

    name: Name
    owner: Name | None = Field(None, description="the key's owner, created if new; your own if missing")
    scopes: Annotated[list[Scope], Field(min_length=1), AfterValidator(_distinct)]
    expires_at: Annotated[AwareDatetime, AfterValidator(_in_future)] | None = None
    limits: KeyLimits | None = None


class RotateIn(In):
    model_config = ConfigDict(json_schema_extra={"examples": [{"grace_seconds": 3600}]})

    grace_seconds: int = Field(0, ge=0, le=MAX_GRACE_SECONDS, description="how long the old secret stays valid")


class KeyOut(Out):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: UUID
    name: str
    owner: str
    scopes: list[str]
    limits: dict[str, int] = Field(description="limits of this key; the installation's settings count for the others")
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    last_used_at: datetime | None = Field(description="exact to a minute")
    expires_at: datetime | None
    revoked_at: datetime | None
    previous_valid_until: datetime | None = Field(description="until when the old secret is valid after a rotation")

    @classmethod
    def of(cls, key: ApiKey, owner_name: str) -> Self:
        return cls(**_fields(key, owner_name))


class KeyMade(KeyOut):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{**_EXAMPLE, "secret": "opk_live_" + "x" * 43 + "_1a2b3c4d"}]}
    )

    secret: str = Field(description="the key itself, shown only once")

    @classmethod
    def of_new(cls, key: ApiKey, owner_name: str, secret: keys.NewKey) -> Self:
        return cls(**_fields(key, owner_name), secret=secret.text)


class KeyPage(Out):
    items: list[KeyOut]
    next: str | None = Field(description="pass it as `cursor` to get the next page; null on the last page")


def _fields(key: ApiKey, owner_name: str) -> dict[str, Any]:
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return {
        "id": key.id,
        "name": key.label,
        "owner": owner_name,
        "scopes": key.scopes,
        "limits": key.limits,
        "state": "revoked" if key.revoked_at else "expired" if expired else "active",
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "previous_valid_until": key.previous_until,
    }


def _visible(who: Caller) -> Select[ApiKey, str]:
    query = select(ApiKey, Owner.name).join(Owner, Owner.id == ApiKey.owner_id)
    return query if who.operates else query.where(ApiKey.owner_id == who.owner_id)


async def _find(session: AsyncSession, who: Caller, key_id: UUID, *, lock: bool) -> tuple[ApiKey, str]:
    query = _visible(who).where(ApiKey.id == key_id).execution_options(populate_existing=True)
    found = (await session.execute(query.with_for_update(of=ApiKey) if lock else query)).one_or_none()
    if found is None:
        raise NotFound(f"there is no key {key_id} here; GET /v1/keys lists those you manage", "no_such_key")
    return found[0], found[1]


@router.post("/keys", status_code=201, response_model=KeyMade)
async def create_key(body: KeyIn, response: Response, who: Admin, session: SessionDep, trail: TrailDep) -> KeyMade:
    """Create a key. Only this answer contains its secret."""
    owner_name = body.owner or who.owner_name
    if owner_name != who.owner_name and not who.operates:
        raise Forbidden(
            f"this key manages the keys of its owner {who.owner_name!r}, not of {owner_name!r}; leave `owner` out",
            "foreign_owner",
        )
    key, secret = await session.run_sync(
        keys.create,
        owner_name=owner_name,
        label=body.name,
        scopes=body.scopes,
        expires_at=body.expires_at,
        limits=body.limits.model_dump(exclude_none=True) if body.limits else {},
    )
    made = KeyMade.of_new(key, owner_name, secret)
    response.headers.update({"Location": link(f"/v1/keys/{key.id}"), "Cache-Control": "no-store"})
    await trail.record("key.create", key.id, "created", owner_id=key.owner_id)
    return made


@router.get("/keys", response_model=KeyPage)
async def list_keys(
    who: Admin,
    session: SessionDep,
    owner: Annotated[str | None, Query(max_length=80, description="list only the keys of this owner")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: UUID | None = None,
) -> KeyPage:
    """List your owner's keys, newest first; the owner `admin` sees every key. Secrets are not included."""
    query = _visible(who).order_by(ApiKey.id.desc()).limit(limit + 1)
    if owner is not None:
        query = query.where(Owner.name == as_read(owner))
    if cursor is not None:
        query = query.where(ApiKey.id < cursor)
    found = (await session.execute(query)).all()
    items = [KeyOut.of(key, owner_name) for key, owner_name in found[:limit]]
    return KeyPage(items=items, next=str(items[-1].id) if len(found) > limit else None)


@router.get("/keys/{key_id}", response_model=KeyOut)
async def read_key(key_id: UUID, who: Admin, session: SessionDep) -> KeyOut:
    """Read one key, without its secret."""
    return KeyOut.of(*await _find(session, who, key_id, lock=False))


@router.post("/keys/{key_id}/rotate", response_model=KeyMade)
async def rotate_key(
    key_id: UUID, body: RotateIn, response: Response, who: Admin, session: SessionDep, trail: TrailDep
) -> KeyMade:
    """Give a key a new secret. The old one stays valid for `grace_seconds`. Browser sessions of the key end."""
    key, owner_name = await _find(session, who, key_id, lock=True)
    secret = await session.run_sync(keys.rotate, key, grace=timedelta(seconds=body.grace_seconds))
    made = KeyMade.of_new(key, owner_name, secret)
    response.headers["Cache-Control"] = "no-store"
    await trail.record("key.rotate", key.id, "rotated", owner_id=key.owner_id)
    return made


@router.delete("/keys/{key_id}", response_model=KeyOut)
async def revoke_key(key_id: UUID, who: Admin, session: SessionDep, trail: TrailDep) -> KeyOut:
    """Revoke a key for good. It is refused from the moment of this answer."""
    if key_id == who.api_key_id:
        raise Conflict("you are using this key; rotate it, or revoke it with another one", "key_in_use")
    key, owner_name = await _find(session, who, key_id, lock=True)
    await session.run_sync(keys.revoke, key)
    revoked = KeyOut.of(key, owner_name)
    await trail.record("key.revoke", key.id, "revoked", owner_id=key.owner_id)
    return revoked
