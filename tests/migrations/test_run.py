from concurrent.futures import ThreadPoolExecutor

from alembic import command
from sqlalchemy import NullPool, create_engine, inspect, text

from migrations.run import alembic_config, migrate


def test_the_tables_and_the_migrations_agree(settings):
    with create_engine(settings.sqlalchemy_url, poolclass=NullPool).begin() as connection:
        command.check(alembic_config(connection))


def test_several_may_migrate_at_once(settings):
    engine = create_engine(settings.sqlalchemy_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(migrate, [settings.sqlalchemy_url] * 3))
    assert "job" in inspect(engine).get_table_names()


def test_a_downgrade_leaves_nothing_behind(settings):
    with create_engine(settings.sqlalchemy_url, poolclass=NullPool).begin() as connection:
        command.downgrade(alembic_config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
