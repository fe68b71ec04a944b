"""The presets of a base; an index of bundles by concept"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("base", sa.Column("presets", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_index("ix_bundle_concept_id_version", "bundle", ["concept_id", "version"])


def downgrade() -> None:
    op.drop_index("ix_bundle_concept_id_version", "bundle")
    op.drop_column("base", "presets")
