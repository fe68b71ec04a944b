"""Damaged backups and wrong targets are refused. `tests/e2e/test_backup.py` tests a complete restore."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from contextlib import nullcontext

import psycopg
import pytest
from sqlalchemy import create_engine, func, inspect, select, text, update

from api.domain.credentials import make_credentials
from api.domain.errors import Conflict, Invalid
from api.domain.storage import Storage
from api.domain.tables import ApiKey, Job, Study
from worker.backup import require_shapes, restore_backup, write_backup
from worker.cli import main


@pytest.fixture
def in_use(settings, monkeypatch):
    """The settings as the environment of a command."""
    for name in ("database_url", "s3_endpoint", "s3_access_key", "s3_bucket"):
        monkeypatch.setenv(f"OPAD_{name.upper()}", getattr(settings, name))
    monkeypatch.setenv("OPAD_S3_SECRET_KEY", settings.s3_secret_key.get_secret_value())
    monkeypatch.setenv("OPAD_HOME", str(settings.home))


@pytest.fixture
def backup(settings, make_job):
    make_job()
    file = io.BytesIO()
    write_backup(settings, file)
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return file.getvalue()


def changed(backup, **members):
    """Return the backup with other members (None removes one) and matching hashes. `__` stands for `/`."""
    new, hashes = io.BytesIO(), {}
    members = {name.replace("__", "/"): content for name, content in members.items()}
    with tarfile.open(fileobj=io.BytesIO(backup)) as old, tarfile.open(fileobj=new, mode="w") as archive:
        contents = {member.name: old.extractfile(member).read() for member in old} | members
        contents["hashes.json"] = members.get("hashes.json", contents.pop("hashes.json"))
        for name, content in contents.items():
            if content is None:
                continue
            if name == "hashes.json" and name not in members:
                content = json.dumps(hashes).encode()
            hashes[name] = hashlib.sha256(content).hexdigest()
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), {"OPAD.sha256": hashes[name]}
            archive.addfile(info, io.BytesIO(content))
    return new.getvalue()


def nothing_is_stored(settings):
    tables = inspect(create_engine(settings.sqlalchemy_url)).get_table_names()
    return tables == [] and list(Storage(settings).entries("")) == []


def jobs(sessions):
    with sessions() as db:
        return db.scalar(select(func.count()).select_from(Job))


def test_an_incomplete_backup_restores_nothing_and_a_complete_one_can_follow(settings, sessions, backup):
    with pytest.raises(Invalid, match="its end is missing"):
        restore_backup(settings, io.BytesIO(backup[: backup.index(b"hashes.json")]))
    assert nothing_is_stored(settings)
    restore_backup(settings, io.BytesIO(changed(backup)))
    assert jobs(sessions) == 1


def test_a_changed_byte_is_detected(settings, backup):
    with pytest.raises(Invalid, match="tables/concept in the backup is damaged"):
        restore_backup(settings, io.BytesIO(backup.replace(b"blue mug", b"blue rug")))
    assert nothing_is_stored(settings)


def test_a_database_in_use_is_left_alone(settings, sessions, backup):
    restore_backup(settings, io.BytesIO(backup))
    with pytest.raises(Conflict, match="restore into an empty one"):
        restore_backup(settings, io.BytesIO(backup))
    assert jobs(sessions) == 1


def test_a_file_that_is_not_a_backup_is_refused(settings, backup):
    with pytest.raises(Invalid, match="the file is not a backup, or its end is missing"):
        restore_backup(settings, io.BytesIO(b"a photo" * 1000))


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (b"{", "backup.json in the backup is not JSON"),
        (b"[" * 100_000, "backup.json in the backup is not JSON"),
        (b"[]", "does not begin with a readable backup.json"),
        (b"{}", "does not begin with a readable backup.json"),
        (b'{"format": 1, "revision": 7}', "does not begin with a readable backup.json"),
        (b'{"format": 2, "revision": "0001"}', "has format '2', and this version of OPAD reads 1"),
        (b'{"format": 1, "revision": "base"}', "has revision 'base', which this version of OPAD does not know"),
        (b'{"format": 1, "revision": "head"}', "has revision 'head', which this version of OPAD does not know"),
        (b'{"format": 1, "revision": "9999"}', "has revision '9999', which this version of OPAD does not know"),
    ],
)
def test_a_backup_of_another_version_is_refused(settings, backup, head, sentence):
    with pytest.raises(Invalid, match=sentence):
        restore_backup(settings, io.BytesIO(changed(backup, **{"backup.json": head})))
    assert nothing_is_stored(settings)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"tables__unknown": b""}, "'tables/unknown' in the backup is no table of revision 00"),
        ({"notes.txt": b""}, "'notes.txt' in the backup is no table of revision 00"),
        ({"tables__job_event": None}, "a part or the end of the backup is missing"),
        ({"tables__owner": b""}, "tables/[a-z_]+ of the backup does not fit its table .*foreign key"),
        ({"tables__owner": b"one\ttwo\n"}, "tables/owner of the backup does not fit its table .*uuid: .one"),
        ({"tables__owner": b"\xff\xfe\n"}, "tables/owner of the backup does not fit its table .*invalid byte sequence"),
        ({"hashes.json": b"no"}, "hashes.json in the backup is not JSON"),
        ({"hashes.json": b"[]"}, "a part or the end of the backup is missing"),
        ({"objects__../../other/key": b""}, "is not a key of the store"),
        ({"objects__": b""}, "is not a key of the store"),
        ({"objects__references/a.png": b"kept", "hashes.json": b"{}"}, "a part or the end of the backup is missing"),
    ],
)
def test_a_backup_with_wrong_content_is_refused_in_one_sentence(settings, backup, members, sentence):
    with pytest.raises(Invalid, match=sentence) as refused:
        restore_backup(settings, io.BytesIO(changed(backup, **members)))
    assert str(refused.value).endswith("; nothing was restored")
    assert "\n" not in str(refused.value)
    assert nothing_is_stored(settings)


def test_json_of_another_shape_is_refused(settings, sessions, make_job):
    job_id = make_job()
    with sessions.begin() as db:
        db.execute(update(Job).where(Job.id == job_id).values(iterations=[[{}]]))
    file = io.BytesIO()
    write_backup(settings, file)
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    sentence = "tables/job of the backup has JSON of the wrong shape in iterations; nothing was restored"
    with pytest.raises(Invalid, match=f"^{sentence}$"):
        restore_backup(settings, io.BytesIO(file.getvalue()))
    assert nothing_is_stored(settings)


def test_each_column_of_json_has_a_shape(settings, sessions, make_job, subtests):
    """Where a column may be empty, null means that."""
    job_id = make_job()
    with sessions.begin() as db:
        owner_id = db.get_one(Job, job_id).owner_id
        db.add(ApiKey(owner_id=owner_id, label="a", secret_sha256=b"0" * 32, scopes=["read"]))
        db.add(Study(owner_id=owner_id, title="a", methods=[], source_sha256="0" * 64))
    engine = create_engine(settings.sqlalchemy_url)
    for table, column, value, is_right in (
        ("job", "overrides", "{}", True),
        ("job", "overrides", "[]", False),
        ("job", "losses", "null", False),
        ("job", "iterations", "null", True),
        ("job", "iterations", '[{"rec": null}]', True),
        ("job", "iterations", '{"rec": 1}', False),
        ("job", "iterations", '[{"rec": 1}, 7]', False),
        ("job_event", "data", '"text"', False),
        ("api_key", "limits", "7", False),
        ("study", "methods", '["opad"]', False),
    ):
        with subtests.test(f"{table}.{column} {value}"), engine.connect() as connection:
            connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))  # events cannot be changed
            connection.execute(text(f"UPDATE {table} SET {column} = cast(:value AS jsonb)"), {"value": value})
            with nullcontext() if is_right else pytest.raises(Invalid, match=f"tables/{table} .* shape in {column};"):
                require_shapes(connection)


def test_a_part_that_comes_twice_is_refused(settings, backup):
    twice = io.BytesIO(changed(backup, **{"hashes.json": None}))
    info = tarfile.TarInfo("tables/owner")
    info.pax_headers = {"OPAD.sha256": hashlib.sha256(b"").hexdigest()}
    with tarfile.open(fileobj=twice, mode="a") as archive:
        archive.addfile(info)
    with pytest.raises(Invalid, match="tables/owner is in the backup twice"):
        restore_backup(settings, io.BytesIO(twice.getvalue()))


def test_objects_that_were_there_before_a_failed_restore_stay(settings, backup):
    content = b"of another service"
    Storage(settings).put_once("references/a.png", content, hashlib.sha256(content).hexdigest())
    archive = changed(backup, **{"objects__references/a.png": content, "objects__b": b"new", "hashes.json": b"{}"})
    with pytest.raises(Invalid):
        restore_backup(settings, io.BytesIO(archive))
    assert [entry.key for entry in Storage(settings).entries("")] == ["references/a.png"]


def test_a_database_of_a_newer_version_is_told_and_left_alone(settings, monkeypatch, capsys):
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        monkeypatch.setenv("OPAD_DATABASE_URL", settings.database_url)
        monkeypatch.setenv("OPAD_HOME", str(settings.home))
        assert main(["migrate"]) == 1
        assert capsys.readouterr().err.startswith("opad: the database has revision 9999, which this version of OPAD")
        done = subprocess.run([sys.executable, "-m", "migrations.run"], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("opad: the database has revision 9999, which this version of OPAD does not know")
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)


def test_a_database_without_tables_is_told(settings, monkeypatch, capsys):
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    monkeypatch.setenv("OPAD_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("OPAD_HOME", str(settings.home))
    assert main(["key", "create"]) == 1
    assert "the database has no tables of this version; run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "path", "sentence"),
    [
        ("backup", "", "is a folder; name a file in it"),
        ("backup", "missing/file.tar", "cannot be written: No such file or directory"),
        ("backup", "full", "cannot be written: No space left on device"),
        ("restore", "", "cannot be read: Is a directory"),
        ("restore", "missing.tar", "cannot be read: No such file or directory"),
        ("restore", "link.tar", "cannot be read: No such file or directory"),
    ],
)
def test_a_path_that_cannot_be_used_is_named(in_use, tmp_path, capsys, command, path, sentence):
    (tmp_path / "link.tar").symlink_to("nowhere")
    (tmp_path / "full.partial").symlink_to("/dev/full")
    given = [command, str(tmp_path / path), *(["--force"] if command == "backup" else [])]
    assert main(given) == 1
    assert sentence in capsys.readouterr().err


@pytest.fixture
def signing_key(settings):
    make_credentials(settings.signing_certificates, settings.signing_key)
    return settings.signing_key.read_bytes()


def test_the_signing_key_is_in_a_backup_only_on_request(in_use, settings, signing_key, backup, tmp_path, capsys):
    restore_backup(settings, io.BytesIO(backup))
    assert b"signing/" not in backup
    assert signing_key not in backup
    file = tmp_path / "with key.tar"
    assert main(["backup", "--with-signing-key", str(file)]) == 0
    assert "files, with the signing key, to" in capsys.readouterr().err
    assert signing_key in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600

    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    elsewhere = settings.model_copy(update={"home": tmp_path / "new"})
    with file.open("rb") as archive:
        assert restore_backup(elsewhere, archive).signing_key
    assert elsewhere.signing_key.read_bytes() == signing_key
    assert elsewhere.signing_key.stat().st_mode & 0o777 == 0o600
    assert elsewhere.signing_certificates.read_bytes() == settings.signing_certificates.read_bytes()


@pytest.mark.parametrize("members", [{}, {"signing__key.pem": None}])
def test_a_restore_replaces_no_signing_key_and_takes_no_half_of_one(settings, signing_key, backup, members):
    both = {"signing__certificate.pem": b"another", "signing__key.pem": b"another"}
    with pytest.raises((Conflict, Invalid), match=r"move certificate\.pem and key\.pem away|a part of the signing key"):
        restore_backup(settings, io.BytesIO(changed(backup, **both | members)))
    assert settings.signing_key.read_bytes() == signing_key
    assert nothing_is_stored(settings)


def test_a_key_that_is_not_there_cannot_be_backed_up(settings, make_job):
    make_job()
    with pytest.raises(Invalid, match=r"certificate\.pem cannot be read: No such file"):
        write_backup(settings, io.BytesIO(), with_signing_key=True)
