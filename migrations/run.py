"""Migrate a database to the newest revision: `python -m migrations.run`, or `migrate(url)` from the launcher."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, NullPool, create_engine, text

from api.domain.environment import read_settings

_LOCK = 0x0FAD_0001
"""Advisory lock: if several processes start at once, one migrates and the others wait."""


def migrate(sqlalchemy_url: str, revision: str = "head") -> None:
    """Apply the missing migrations up to `revision` in one transaction. Takes `Settings.sqlalchemy_url`."""
    engine = create_engine(sqlalchemy_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        command.upgrade(alembic_config(connection), revision)


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


if __name__ == "__main__":
    migrate(read_settings("database_url").sqlalchemy_url)
