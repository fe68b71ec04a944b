"""Rotation and last use of API keys"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("api_key", sa.Column("previous_sha256", sa.LargeBinary(), nullable=True))
    op.add_column("api_key", sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_key", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.create_unique_constraint(op.f("uq_api_key_previous_sha256"), "api_key", ["previous_sha256"])


def downgrade() -> None:
    op.drop_column("api_key", "last_used_at")
    op.drop_column("api_key", "previous_until")
    op.drop_column("api_key", "previous_sha256")
