from datetime import datetime
from typing import Any

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.domain.tables.table import Table


class ServedBase(Table):
    """The base of this installation. Each engine announces it at its start."""

    __tablename__ = "base"

    name: Mapped[str] = mapped_column(primary_key=True)
    resolution: Mapped[int]
    nouns: Mapped[list[str] | None]
    """The class nouns that the base knows; None if it knows all."""
    words: Mapped[list[str] | None]
    presets: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Every field of each preset on this base; None until an engine has announced it."""
    methods: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Every setting of each method without presets on this base, in the same way."""
    limits: Mapped[str | None]
    """What the base cannot learn from photos, in a sentence; None if its manifest names nothing."""
    no_fast_decoder: Mapped[str | None]
    """Why the base has no fast decoder, in a sentence; None if it has one."""
    manifest_sha256: Mapped[str]
    announced_at: Mapped[datetime] = mapped_column(server_default=func.now())
