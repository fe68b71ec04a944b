"""How much the object store holds, and of what."""

from collections.abc import Iterable
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from api.auth import Admin, Caller
from api.domain import keys
from api.domain.errors import Forbidden
from api.domain.storage import Entry, Storage
from api.schemas import Out

router = APIRouter(tags=["system"])

Kind = Literal["references", "bundles", "exports", "images", "checkpoints", "previews", "other"]
_FOLDERS: dict[str, Kind] = {
    "references": "references",
    "bundles": "bundles",
    "exports": "exports",
    "images": "images",
}
KINDS: tuple[Kind, ...] = ("references", "bundles", "exports", "images", "checkpoints", "previews", "other")


class KindOut(Out):
    kind: Kind
    objects: int
    size: int = Field(description="bytes")


class StorageOut(Out):
    kinds: list[KindOut]
    objects: int
    size: int = Field(description="bytes")


def require_operator(who: Caller) -> None:
    if not who.operates:
        raise Forbidden(
            f"this is for admin keys of the owner {keys.ADMIN_OWNER!r}; use one of those", "foreign_owner"
        )  # fmt: skip


@router.get("/storage", response_model=StorageOut)
async def read_storage(request: Request, who: Admin) -> StorageOut:
    """Objects and bytes of each kind, counted in the store itself: a second for each hundred thousand objects or so."""
    require_operator(who)
    return await run_in_threadpool(_count, request.app.state.storage)


def _count(storage: Storage) -> StorageOut:
    counted = _by_kind(storage.entries(""))
    kinds = [KindOut(kind=kind, objects=counted[kind][0], size=counted[kind][1]) for kind in KINDS]
    return StorageOut(kinds=kinds, objects=sum(k.objects for k in kinds), size=sum(k.size for k in kinds))


def _by_kind(entries: Iterable[Entry]) -> dict[Kind, tuple[int, int]]:
    counted: dict[Kind, tuple[int, int]] = dict.fromkeys(KINDS, (0, 0))
    for entry in entries:
        objects, size = counted[_kind(entry.key)]
        counted[_kind(entry.key)] = (objects + 1, size + entry.size)
    return counted


def _kind(key: str) -> Kind:
    parts = key.split("/")
    if parts[0] == "jobs" and len(parts) > 2:
        return "previews" if parts[2] == "previews" else "checkpoints"
    return _FOLDERS.get(parts[0], "other")
