"""User studies and their votes"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0026"
down_revision: str | None = "0025"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "study",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("methods", postgresql.JSONB(), nullable=False),
        sa.Column("source_sha256", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["owner.id"], name=op.f("fk_study_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("owner_id", "source_sha256", name=op.f("uq_study_owner_id_source_sha256")),
    )
    op.create_table(
        "study_group",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("concept", sa.Text(), nullable=False),
        sa.Column("class_noun", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_group_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study_group")),
        sa.UniqueConstraint("study_id", "position", name=op.f("uq_study_group_study_id_position")),
    )
    op.create_table(
        "study_image",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("concept", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=True),
        sa.Column("method", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.CheckConstraint("(group_id IS NULL) = (method IS NULL)", name=op.f("ck_study_image_method_of_a_group")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_image_study_id")),
        sa.ForeignKeyConstraint(["group_id"], ["study_group.id"], name=op.f("fk_study_image_group_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study_image")),
        sa.UniqueConstraint("group_id", "method", name=op.f("uq_study_image_group_id_method")),
    )
    op.create_index("ix_study_image_study_id_concept", "study_image", ["study_id", "concept"])
    op.create_table(
        "study_vote",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("voter", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["study_group.id"], name=op.f("fk_study_vote_group_id")),
        sa.ForeignKeyConstraint(["image_id"], ["study_image.id"], name=op.f("fk_study_vote_image_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study_vote")),
        sa.UniqueConstraint("group_id", "voter", name=op.f("uq_study_vote_group_id_voter")),
    )
    op.create_index("ix_study_vote_image_id", "study_vote", ["image_id"])


def downgrade() -> None:
    op.drop_table("study_vote")
    op.drop_table("study_image")
    op.drop_table("study_group")
    op.drop_table("study")
