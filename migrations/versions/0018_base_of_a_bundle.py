"""The base that a bundle was trained on, and the limits of a base"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("bundle", sa.Column("base_sha256", sa.Text(), nullable=True))
    op.add_column("base", sa.Column("limits", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("base", "limits")
    op.drop_column("bundle", "base_sha256")
