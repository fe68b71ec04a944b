"""Migrate a database to the newest revision: `python -m migrations.run`, or `migrate(url)` from the launcher."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine, text

from api.domain.environment import end_with, read_settings
from api.domain.errors import Conflict

_LOCK = 0x0FAD_0001
"""Advisory lock: if several processes start at once, one migrates and the others wait."""


def migrate(sqlalchemy_url: str) -> None:
    """Apply the missing migrations in one transaction. Takes `Settings.sqlalchemy_url`.

    Raises Conflict if a newer program migrated the database.
    """
    with create_engine(sqlalchemy_url, poolclass=NullPool).begin() as connection:
        migrate_within(connection)


def migrate_within(connection: Connection, revision: str = "head") -> None:
    """Apply the missing migrations up to `revision` in the connection's transaction. Raises Conflict like `migrate`."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known_revisions()
    if unknown:
        raise Conflict(newer_tables(*unknown), "newer_tables")
    command.upgrade(alembic_config(connection), revision)


def newer_tables(revision: str) -> str:
    return (
        f"the database has revision {revision}, which this version of OPAD does not know, because a newer one migrated "
        "it; start the newer version, or restore a backup from before the upgrade into an empty service"
    )


def known_revisions() -> set[str]:
    return {script.revision for script in ScriptDirectory(str(Path(__file__).parent)).walk_revisions()}


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


if __name__ == "__main__":
    try:
        migrate(read_settings("database_url").sqlalchemy_url)
    except Conflict as error:
        end_with(str(error))
