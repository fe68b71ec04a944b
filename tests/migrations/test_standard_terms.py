import json

from alembic import command
from sqlalchemy import Connection, NullPool, create_engine, text

from migrations.run import alembic_config

OLD_FIELDS = {
    "select_every": 25,
    "decode_share": 0.5,
    "bank": 64,
    "compared_below": 0.7,
    "rec_times": [0, 999],
    "target_times": [20, 980],
    "lambda_anchor": 1.0,
    "photos": 5,
    "photo_share": 0.25,
    "normalise_backbones": True,
}
NEW_FIELDS = {
    "eval_every": 25,
    "decode_crop": 0.5,
    "augmentation_cache": 64,
    "max_target_timestep": 0.7,
    "teacher_timestep_range": [0, 999],
    "target_timestep_range": [20, 980],
    "lambda_kv_preservation": 1.0,
    "max_references": 5,
    "reference_share": 0.25,
    "normalize_backbones": True,
}
OLD_PRESETS = {"default": {**OLD_FIELDS, "iterations": 200}, "paper": {"iterations": 1200}, "empty": {}}
NEW_PRESETS = {"default": {**NEW_FIELDS, "iterations": 200}, "paper": {"iterations": 1200}, "empty": {}}
OWNER = "0198c0de-7e57-7000-8000-000000000001"


def insert_old_rows(connection: Connection) -> None:
    def insert(table: str, **columns: object) -> None:
        values = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in columns.items()}
        names = ", ".join(values)
        connection.execute(text(f"INSERT INTO {table} ({names}) VALUES (:{', :'.join(values)})"), values)

    insert("owner", id=OWNER, name="alice")
    insert("concept", id=OWNER, owner_id=OWNER, name="my mug", class_noun="mug", base="nano")
    job = {"owner_id": OWNER, "concept_id": OWNER, "preset": "default", "seed": 1, "state": "failed", "losses": {}}
    job |= {"attempt": 1, "fence": 1, "step": 0}
    insert("job", id=OWNER, version=1, overrides={**OLD_FIELDS, "iterations": 300}, **job)
    insert("job", id=OWNER[:-1] + "2", version=2, overrides={}, **job)
    insert("base", name="nano", resolution=64, manifest_sha256="0" * 64, presets=OLD_PRESETS)
    insert("base", name="silent", resolution=64, manifest_sha256="1" * 64)
    insert("retention_sweep", day="2026-11-20", removed={"images": 1, "photos": 2, "failed_uploads": 3, "events": 4})
    insert("retention_sweep", day="2026-11-21")
    insert("presence", name="gpu-1", kind="engine", facts={"device": "cuda"})
    insert("generate_tally", slot="2026-11-20T12:00:00Z", owner_id=OWNER, outcome="ok", bucket=36, count=7)


def test_old_rows_get_the_new_names_and_the_old_ones_back(settings):
    def read(connection: Connection, query: str) -> list[object]:
        return list(connection.execute(text(query)).scalars())

    def json_columns(connection: Connection) -> tuple[list[object], ...]:
        return (
            read(connection, "SELECT overrides FROM job ORDER BY version"),
            read(connection, "SELECT presets FROM base ORDER BY name"),
            read(connection, "SELECT removed FROM retention_sweep ORDER BY day"),
        )

    with create_engine(settings.sqlalchemy_url, poolclass=NullPool).begin() as connection:
        command.downgrade(alembic_config(connection), "0016")
        insert_old_rows(connection)
        events = read(connection, "SELECT count(*) FROM job_event")
        before = json_columns(connection)

        command.upgrade(alembic_config(connection), "0017")

        assert json_columns(connection) == (
            [{**NEW_FIELDS, "iterations": 300}, {}],
            [NEW_PRESETS, None],
            [{"images": 1, "references": 2, "failed_uploads": 3, "events": 4}, None],
        )
        assert read(connection, "SELECT facts ->> 'device' FROM heartbeat WHERE name = 'gpu-1'") == ["cuda"]
        assert read(connection, "SELECT count FROM generate_histogram") == [7]
        assert read(connection, "SELECT count(*) FROM job_event") == events, "no watcher is told of a rename"

        command.downgrade(alembic_config(connection), "0016")

        assert json_columns(connection) == before
        assert read(connection, "SELECT count FROM generate_tally") == [7]
