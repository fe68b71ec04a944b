"""The file that Alembic runs, with a connection in `config.attributes` or with OPAD_DATABASE_URL."""

from alembic import context
from sqlalchemy import Connection, NullPool, create_engine

from api.domain import audit, consent, retention, webhooks  # noqa: F401  registers their tables
from api.domain.environment import read_settings
from api.domain.tables import Table


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Table.metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    settings = read_settings("database_url")
    with create_engine(settings.sqlalchemy_url, poolclass=NullPool).connect() as opened:
        run(opened)
