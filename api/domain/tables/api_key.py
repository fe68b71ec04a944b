from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, func
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from api.domain.tables.table import Table


class ApiKey(Table):
    """An API key. Only its SHA-256 is stored: 256 random bits need no slow hash (ASVS 6.5.2)."""

    __tablename__ = "api_key"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"))
    label: Mapped[str]
    secret_sha256: Mapped[bytes] = mapped_column(unique=True)
    previous_sha256: Mapped[bytes | None] = mapped_column(unique=True)
    """The secret before the last rotation, valid until `previous_until`."""
    previous_until: Mapped[datetime | None]
    scopes: Mapped[list[str]]
    """Any of admin, train, generate, read; admin implies the others."""
    limits: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The limits in which this key differs from the settings (`api.limits.LimitName`); 0 is no limit."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime | None]
    """Exact to a minute."""
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class DashboardSession(Table):
    """A browser session of an API key; it ends with the key. Only the SHA-256 of the cookie's token is stored."""

    __tablename__ = "dashboard_session"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    api_key_id: Mapped[UUID] = mapped_column(ForeignKey("api_key.id"))
    token_sha256: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
