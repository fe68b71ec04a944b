"""The object store's contents by kind, and what retention removes next."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, get_args

from fastapi import APIRouter
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from api.auth import Admin, Caller
from api.domain import keys, retention
from api.domain.errors import Forbidden
from api.domain.storage import Entry, Storage
from api.schemas import Out
from api.services import ServicesDep, SessionDep

router = APIRouter(tags=["system"])

Kind = Literal["references", "bundles", "exports", "images", "studies", "checkpoints", "previews", "other"]
_FOLDERS: dict[str, Kind] = {
    "references": "references",
    "bundles": "bundles",
    "exports": "exports",
    "images": "images",
    "studies": "studies",
}
KINDS: tuple[Kind, ...] = get_args(Kind)


class KindOut(Out):
    kind: Kind
    objects: int
    size: int = Field(description="bytes")


class StorageOut(Out):
    kinds: list[KindOut]
    objects: int
    size: int = Field(description="bytes")


OutdatedClass = Literal["images", "references", "failed_uploads", "events"]


class OutdatedOut(Out):
    kind: OutdatedClass
    keep_days: int | None = Field(description="retention time; null keeps it until it is erased")
    count: int = Field(description="photos, images or events to remove")
    size: int = Field(description="bytes of the files, or of the rows of events")


class RetentionOut(Out):
    next_at: datetime = Field(description="when the next sweep is due")
    outdated: list[OutdatedOut] = Field(description="what it would remove if nothing changes until then")
    last_at: datetime | None = Field(description="when the last sweep ended")
    last_removed: dict[OutdatedClass, int] | None = Field(description="how much of each class it removed")


def require_operator(who: Caller) -> None:
    if not who.operates:
        raise Forbidden(
            f"this needs an admin key of the owner {keys.ADMIN_OWNER!r}", "foreign_owner"
        )  # fmt: skip


@router.get("/storage", response_model=StorageOut)
async def read_storage(services: ServicesDep, who: Admin) -> StorageOut:
    """Count objects and bytes by kind in the store itself. Takes about a second per hundred thousand objects."""
    require_operator(who)
    return await run_in_threadpool(_count, services.storage)


@router.get("/storage/retention", response_model=RetentionOut)
async def preview_retention(services: ServicesDep, who: Admin, session: SessionDep) -> RetentionOut:
    """Read what the next nightly sweep would remove, and what the last one removed."""
    require_operator(who)
    settings = services.settings
    due = await session.run_sync(retention.next_sweep)
    cutoffs = retention.Cutoffs.at(due, settings)
    amounts = await session.run_sync(lambda db: retention.preview(cutoffs, db, {}))
    if amounts["references"].count or amounts["failed_uploads"].count:  # only the store knows their sizes
        sizes = await run_in_threadpool(retention.sizes_of_references, services.storage)
        amounts = await session.run_sync(lambda db: retention.preview(cutoffs, db, sizes))
    last = await session.run_sync(retention.last_sweep)
    return RetentionOut(
        next_at=due,
        outdated=[
            OutdatedOut(
                kind=kind,
                keep_days=getattr(settings, f"keep_{kind}_days") or None,
                count=amounts[kind].count,
                size=amounts[kind].size,
            )
            for kind in get_args(OutdatedClass)
        ],
        last_at=last.finished_at if last else None,
        last_removed=last.removed if last else None,  # type: ignore[arg-type]  # JSON of these four
    )


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
        return "previews" if parts[2] in ("previews", "images") else "checkpoints"
    return _FOLDERS.get(parts[0], "other")
