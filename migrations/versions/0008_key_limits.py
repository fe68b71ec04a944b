"""Limits of a key, and the training minutes of erased concepts"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("api_key", sa.Column("limits", postgresql.JSONB(), server_default="{}", nullable=False))
    op.alter_column("api_key", "limits", server_default=None)
    op.create_table(
        "erased_training",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["owner.id"], name=op.f("fk_erased_training_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erased_training")),
    )
    op.create_index("ix_erased_training_owner_id_ended_at", "erased_training", ["owner_id", "ended_at"])


def downgrade() -> None:
    op.drop_table("erased_training")
    op.drop_column("api_key", "limits")
