"""Heartbeats of processes, and counts of generate requests (renamed by 0017)"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "presence",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_presence")),
    )
    op.create_table(
        "generate_tally",
        sa.Column("slot", sa.DateTime(timezone=True), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["owner.id"], name=op.f("fk_generate_tally_owner_id")),
        sa.PrimaryKeyConstraint("slot", "owner_id", "outcome", "bucket", name=op.f("pk_generate_tally")),
    )
    op.create_index("ix_job_owner_id_id", "job", ["owner_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_job_owner_id_id", "job")
    op.drop_table("generate_tally")
    op.drop_table("presence")
