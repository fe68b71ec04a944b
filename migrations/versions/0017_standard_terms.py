"""Standard terms for tables, retention classes and the method's settings

Rows of the audit log keep their old words: the log is append-only and hashed.
"""

from collections.abc import Mapping, Sequence

from alembic import op

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TABLES = {"presence": "heartbeat", "generate_tally": "generate_histogram"}
CONSTRAINTS = {
    "heartbeat": {"pk_presence": "pk_heartbeat"},
    "generate_histogram": {
        "pk_generate_tally": "pk_generate_histogram",
        "fk_generate_tally_owner_id": "fk_generate_histogram_owner_id",
    },
}
RETENTION_CLASSES = {"photos": "references"}
CONFIG_FIELDS = {
    "select_every": "eval_every",
    "decode_share": "decode_crop",
    "bank": "augmentation_cache",
    "compared_below": "max_target_timestep",
    "rec_times": "teacher_timestep_range",
    "target_times": "target_timestep_range",
    "lambda_anchor": "lambda_kv_preservation",
    "photos": "max_references",
    "photo_share": "reference_share",
    "normalise_backbones": "normalize_backbones",
}


def upgrade() -> None:
    for old, new in TABLES.items():
        op.rename_table(old, new)
    for table, names in CONSTRAINTS.items():
        for old, new in names.items():
            op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}")
    _rename_keys(RETENTION_CLASSES, CONFIG_FIELDS)


def downgrade() -> None:
    _rename_keys(_inverted(RETENTION_CLASSES), _inverted(CONFIG_FIELDS))
    for table, names in CONSTRAINTS.items():
        for old, new in names.items():
            op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {new} TO {old}")
    for old, new in TABLES.items():
        op.rename_table(new, old)


def _rename_keys(retention_classes: Mapping[str, str], config_fields: Mapping[str, str]) -> None:
    """Rename the keys in every JSON column that has them: removed counts, jobs' overrides, bases' presets."""
    op.execute(f"UPDATE retention_sweep SET removed = {_renamed('removed', retention_classes)} WHERE removed <> '{{}}'")
    op.execute(f"UPDATE job SET overrides = {_renamed('overrides', config_fields)} WHERE overrides <> '{{}}'")
    preset = _renamed("preset.value", config_fields)
    op.execute(
        f"UPDATE base SET presets = (SELECT jsonb_object_agg(preset.key, {preset}) FROM jsonb_each(presets) AS preset) "
        "WHERE presets <> '{}'"
    )


def _renamed(column: str, names: Mapping[str, str]) -> str:
    """Return the SQL of the JSON object in `column` with its keys renamed."""
    pairs = ", ".join(f"('{old}', '{new}')" for old, new in names.items())
    return (
        "(SELECT coalesce(jsonb_object_agg(coalesce(name.new, field.key), field.value), '{}') "
        f"FROM jsonb_each({column}) AS field LEFT JOIN (VALUES {pairs}) AS name (old, new) ON name.old = field.key)"
    )


def _inverted(names: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in names.items()}
