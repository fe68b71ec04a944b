from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import ForeignKey, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from api.domain.tables.table import Table

ConsentSource = Literal["statement", "policy"]
"""Made with the request, or by an agreement that the installation has with its users (`OPAD_CONSENT=policy`)."""


class Consent(Table):
    """Written in the transaction that makes the concept, erased with it."""

    __tablename__ = "consent"

    concept_id: Mapped[UUID] = mapped_column(ForeignKey("concept.id"), primary_key=True)
    api_key_id: Mapped[UUID]
    """Whose request it was; no foreign key, as in the audit log."""
    source: Mapped[ConsentSource] = mapped_column(Text())
    statement_version: Mapped[str]
    given_at: Mapped[datetime] = mapped_column(server_default=func.now())
