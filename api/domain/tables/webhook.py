from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from api.domain.tables.table import Table


class Webhook(Table):
    __tablename__ = "webhook"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"), index=True)
    url: Mapped[str]
    events: Mapped[list[str]]
    secret: Mapped[str]
    """`whsec_` and base64, in clear text, because every message is signed with it."""
    previous_secret: Mapped[str | None]
    """Messages are signed with this one too until `previous_until`."""
    previous_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]
    """When the receiver answered 410 Gone."""


class WebhookDelivery(Table):
    """One message for one webhook. `tries` is its fence: a sender reports with the number it claimed."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        Index("ix_webhook_delivery_due", "next_try_at", postgresql_where=text("state = 'pending'")),
        Index("ix_webhook_delivery_webhook_id_number", "webhook_id", "number"),
        Index("ix_webhook_delivery_job_id", "job_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    """The order of writing, for pagination."""
    webhook_id: Mapped[UUID] = mapped_column(ForeignKey("webhook.id"))
    event: Mapped[str]
    job_id: Mapped[UUID | None]
    payload: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default="pending")
    """pending, delivered or failed."""
    tries: Mapped[int] = mapped_column(server_default="0")
    """Tries in the current round; a redelivery starts a new round."""
    log: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    """Every try of every round: time, status or error, milliseconds."""
    next_try_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
