from datetime import datetime

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.domain.tables.table import Table


class BaseCheck(Table):
    """The check of a base's weights. It is due until `checked_at` is later than `requested_at`."""

    __tablename__ = "base_check"

    base_sha256: Mapped[str] = mapped_column(primary_key=True)
    """Hash of the base's manifest, so another edition of the base is checked again."""
    requested_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    """When a trainer host began; None while none runs."""
    host: Mapped[str | None]
    """The host that runs the check, or ran the last one."""
    checked_at: Mapped[datetime | None]
    answers: Mapped[list[dict[str, str]] | None] = mapped_column(JSONB(none_as_null=True))
    """`opad_core.known_answers.Answer` as dictionaries: check, outcome and sentence."""
