from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import ForeignKey, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from api.domain.tables.table import Table

ConsentSource = Literal["statement", "policy"]
"""Given with the request, or by an agreement between the installation and its users (`OPAD_CONSENT=policy`)."""


class Consent(Table):
    """The consent for a concept. It is written in the concept's transaction and erased with the concept."""

    __tablename__ = "consent"

    concept_id: Mapped[UUID] = mapped_column(ForeignKey("concept.id"), primary_key=True)
    api_key_id: Mapped[UUID]
    """The key of the request. It has no foreign key, as in the audit log."""
    source: Mapped[ConsentSource] = mapped_column(Text())
    statement_version: Mapped[str]
    given_at: Mapped[datetime] = mapped_column(server_default=func.now())
