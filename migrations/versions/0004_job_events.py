"""Job events, appended by a trigger"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

STATE = """
jsonb_build_object(
    'state', {job}.state, 'attempt', {job}.attempt, 'cancel_requested', {job}.cancel_requested_at IS NOT NULL,
    'error', CASE WHEN {job}.error_code IS NOT NULL
             THEN jsonb_build_object('code', {job}.error_code, 'detail', coalesce({job}.error_detail, '')) END
)
"""

TELL = f"""
CREATE FUNCTION tell_job_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.stage, NEW.step, NEW.losses) IS DISTINCT FROM (OLD.stage, OLD.step, OLD.losses) THEN
            INSERT INTO job_event (job_id, kind, data) VALUES (NEW.id, 'progress', jsonb_build_object(
                'stage', NEW.stage, 'step', NEW.step, 'total_steps', NEW.total_steps,
                'eta_seconds', NEW.eta_seconds, 'losses', NEW.losses
            ));
        END IF;
        IF NEW.preview_key IS DISTINCT FROM OLD.preview_key AND NEW.preview_key IS NOT NULL THEN
            INSERT INTO job_event (job_id, kind, data)
            VALUES (NEW.id, 'preview', jsonb_build_object('step', NEW.step));
        END IF;
        IF (NEW.state, NEW.attempt, NEW.cancel_requested_at) IS NOT DISTINCT FROM
           (OLD.state, OLD.attempt, OLD.cancel_requested_at) THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO job_event (job_id, kind, data) VALUES (NEW.id, 'state', {STATE.format(job="NEW")});
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "job_event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_event_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_event")),
    )
    op.create_index("ix_job_event_job_id_id", "job_event", ["job_id", "id"])
    op.execute(
        f"INSERT INTO job_event (job_id, kind, data) SELECT id, 'state', {STATE.format(job='job')} FROM job ORDER BY id"
    )
    op.execute(TELL)
    op.execute(
        "CREATE TRIGGER tell_job_event AFTER INSERT OR UPDATE ON job FOR EACH ROW EXECUTE FUNCTION tell_job_event()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER tell_job_event ON job")
    op.execute("DROP FUNCTION tell_job_event")
    op.drop_table("job_event")
