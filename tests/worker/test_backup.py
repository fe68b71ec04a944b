"""Damaged backups and wrong targets are refused. `tests/e2e/test_backup.py` tests a complete restore."""

import io

import psycopg
import pytest
from sqlalchemy import func, select

from api.domain.errors import Conflict, Invalid
from api.domain.tables import Job, Owner
from worker.backup import restore_backup, write_backup


@pytest.fixture
def backup(settings, make_job):
    make_job()
    file = io.BytesIO()
    write_backup(settings, file)
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return file.getvalue()


def count(sessions, table):
    with sessions() as db:
        return db.scalar(select(func.count()).select_from(table))


def test_an_incomplete_backup_restores_no_row_and_a_complete_one_can_follow(settings, sessions, backup):
    with pytest.raises(Invalid, match="its end is missing"):
        restore_backup(settings, io.BytesIO(backup[: backup.index(b"hashes.json")]))
    assert count(sessions, Owner) == 0
    restore_backup(settings, io.BytesIO(backup))
    assert count(sessions, Job) == 1


def test_a_changed_byte_is_detected(settings, sessions, backup):
    with pytest.raises(Invalid, match="tables/concept in the backup is damaged"):
        restore_backup(settings, io.BytesIO(backup.replace(b"blue mug", b"blue rug")))
    assert count(sessions, Owner) == 0


def test_a_database_in_use_is_left_alone(settings, sessions, backup):
    restore_backup(settings, io.BytesIO(backup))
    with pytest.raises(Conflict, match="restore into an empty one"):
        restore_backup(settings, io.BytesIO(backup))
    assert count(sessions, Job) == 1


def test_a_file_that_is_not_a_backup_is_refused(settings, backup):
    with pytest.raises(Invalid, match="the file is not a backup, or its end is missing"):
        restore_backup(settings, io.BytesIO(b"a photo" * 1000))
