"""The method of a job, and the settings of each method on a base"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0025"
down_revision: str | None = "0024"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("job", sa.Column("method", sa.Text(), server_default="opad", nullable=False))
    op.add_column("base", sa.Column("methods", postgresql.JSONB(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("base", "methods")
    op.drop_column("job", "method")
