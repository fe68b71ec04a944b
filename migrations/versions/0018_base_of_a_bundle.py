"""The base that a bundle was trained on"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("bundle", sa.Column("base_sha256", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("bundle", "base_sha256")
