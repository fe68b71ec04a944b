"""The losses of each iteration in progress events"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TELL = "SELECT pg_get_functiondef('tell_job_event()'::regprocedure)"
BEFORE = "'losses', NEW.losses"
AFTER = "'losses', NEW.losses, 'iterations', NEW.iterations"


def upgrade() -> None:
    op.add_column("job", sa.Column("iterations", postgresql.JSONB(none_as_null=True), nullable=True))
    _replace(BEFORE, AFTER)


def downgrade() -> None:
    _replace(AFTER, BEFORE)
    op.drop_column("job", "iterations")


def _replace(before: str, after: str) -> None:
    """Change what the trigger writes into a progress event."""
    definition = op.get_bind().execute(sa.text(TELL)).scalar_one()
    assert before in definition
    op.get_bind().exec_driver_sql(definition.replace(before, after))
