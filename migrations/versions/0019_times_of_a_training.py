"""Times of a training, for predictions, and where a predicted time comes from"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TELL = "SELECT pg_get_functiondef('tell_job_event()'::regprocedure)"
BEFORE = "'eta_seconds', NEW.eta_seconds, 'losses'"
AFTER = "'eta_seconds', NEW.eta_seconds, 'eta_source', NEW.eta_source, 'losses'"


def upgrade() -> None:
    op.add_column("attempt", sa.Column("timing", postgresql.JSONB(none_as_null=True), nullable=True))
    op.add_column("job", sa.Column("eta_source", sa.Text(), nullable=True))
    _replace(BEFORE, AFTER)


def downgrade() -> None:
    _replace(AFTER, BEFORE)
    op.drop_column("job", "eta_source")
    op.drop_column("attempt", "timing")


def _replace(before: str, after: str) -> None:
    """Change what the trigger writes into a progress event."""
    definition = op.get_bind().execute(sa.text(TELL)).scalar_one()
    assert before in definition
    op.get_bind().exec_driver_sql(definition.replace(before, after))
