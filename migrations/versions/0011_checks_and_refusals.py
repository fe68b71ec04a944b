"""Scores of the image check; audit rows without an owner"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    for table in ("reference", "image"):
        op.add_column(table, sa.Column("check_score", sa.Float(), nullable=True))
    for column in ("owner_id", "object_id"):
        op.alter_column("audit_event", column, nullable=True)


def downgrade() -> None:
    """The audit log's columns stay nullable, because a row without an owner cannot be changed or deleted."""
    for table in ("reference", "image"):
        op.drop_column(table, "check_score")
