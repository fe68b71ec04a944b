"""The decoder of an image, and why a base has no fast one"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NOT_ANNOUNCED = "no engine has announced a fast decoder yet; restart the engines"
"""Earlier engines have none. Each engine writes its own reason, or none, at its start."""


def upgrade() -> None:
    op.add_column("image", sa.Column("decoder", sa.Text(), server_default="full", nullable=False))
    op.add_column("base", sa.Column("no_fast_decoder", sa.Text(), nullable=True))
    op.get_bind().execute(sa.text("UPDATE base SET no_fast_decoder = :reason"), {"reason": NOT_ANNOUNCED})


def downgrade() -> None:
    op.drop_column("base", "no_fast_decoder")
    op.drop_column("image", "decoder")
