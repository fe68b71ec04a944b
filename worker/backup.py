"""Copy the database and the bucket to one file, and restore them into an empty service.

The file is a tar archive. `backup.json` holds the revision of the tables. `tables/<name>` holds the output of
PostgreSQL's COPY; all tables come from one snapshot. `objects/<key>` follows. `signing/` holds the key that signs
images and its certificates, if they were asked for. `hashes.json` is last; an archive without it is incomplete. Objects
are read after the rows. Keys are written once, so every object that the snapshot names is there, unless it was erased
in between.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Literal, get_args, get_origin

import psycopg
import sqlalchemy
from psycopg import sql
from psycopg.errors import ProgramLimitExceeded
from sqlalchemy import ColumnElement, MetaData, NullPool, cast, create_engine, exists, func, or_, select
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH
from sqlalchemy.exc import DBAPIError

from api.domain.credentials import write_credentials
from api.domain.errors import Conflict, Invalid
from api.domain.settings import Settings
from api.domain.storage import ObjectMissing, Storage, StorageUnavailable
from api.domain.tables.table import Table
from migrations.run import known_revisions, migrate_within

FORMAT = 1
_NOTHING = "nothing was restored"
_REVISION = "alembic_version"
_CERTIFICATES, _KEY = "signing/certificate.pem", "signing/key.pem"
_HASH = "OPAD.sha256"
"""Header of each member. A damaged object must never be stored, because its key could not be written again."""
_CHUNK = 1 << 20
_NO_OBJECT = 'strict $[*] ? (@.type() != "object")'
"""Finds what is no object in a list of JSON."""

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Contents:
    revision: str
    rows: int
    objects: int
    signing_key: bool


def write_backup(settings: Settings, file: IO[bytes], *, with_signing_key: bool = False) -> Contents:
    """Write a backup to `file`, which need not be seekable. The service may be running.

    Raises Invalid for a database without tables and a signing key that cannot be read, StorageUnavailable, and
    psycopg's errors.
    """
    storage, hashes, rows = Storage(settings), dict[str, str](), 0
    signing = _signing_files(settings) if with_signing_key else {}
    with tarfile.open(fileobj=file, mode="w|") as archive, _connection(settings) as connection:

        def add(name: str, content: IO[bytes], size: int) -> None:
            hashes[name] = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]  # IO is enough
            content.seek(0)
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.pax_headers = size, 0o600, {_HASH: hashes[name]}
            archive.addfile(info, content)

        def add_bytes(name: str, content: bytes) -> None:
            add(name, io.BytesIO(content), len(content))

        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        revision = _revision(connection)
        if revision is None:
            raise Invalid("the database holds no tables of OPAD; there is nothing to back up", "nothing_to_back_up")
        add_bytes("backup.json", json.dumps({"format": FORMAT, "revision": revision}).encode())
        for table in _tables(create_engine(settings.sqlalchemy_url, poolclass=NullPool)):
            with tempfile.TemporaryFile() as spool:
                query = sql.SQL("COPY {} ({}) TO STDOUT").format(sql.Identifier(table.name), table.column_list)
                with connection.cursor() as cursor:
                    with cursor.copy(query) as copy:
                        for block in copy:
                            spool.write(block)
                    rows += cursor.rowcount
                size = spool.tell()
                spool.seek(0)
                add(f"tables/{table.name}", spool, size)
        objects = 0
        for key in (entry.key for entry in storage.entries("")):
            try:
                add_bytes(f"objects/{key}", storage.read(key))
            except ObjectMissing:  # erased since, or a superseded checkpoint
                continue
            objects += 1
        for name, content in signing.items():
            add_bytes(name, content)
        add_bytes("hashes.json", json.dumps(hashes).encode())
    return Contents(revision, rows, objects, with_signing_key)


def restore_backup(settings: Settings, file: IO[bytes]) -> Contents:
    """Restore a backup into an empty database, in one transaction. After an error nothing has changed.

    Objects are stored meanwhile, and those that were new are deleted after an error. Raises Conflict if the database is
    not empty or there is another signing key, Invalid if the file is not a backup, is incomplete, is damaged or comes
    from a newer version, and StorageUnavailable.
    """
    storage, stored = Storage(settings), list[str]()
    engine = create_engine(settings.sqlalchemy_url, poolclass=NullPool)
    try:
        with _reading(file) as members, engine.begin() as connection:
            return _restore(members, connection, settings, stored)
    except BaseException:
        with suppress(StorageUnavailable):  # what remains has no row, so the reconciler deletes it later
            for key in stored:
                storage.delete(key)
        raise


def _restore(
    members: Iterator[tuple[str, bytes]], connection: sqlalchemy.Connection, settings: Settings, stored: list[str]
) -> Contents:
    """Fill the tables and the bucket. Append the key of each new object to `stored`."""
    storage, signing = Storage(settings), dict[str, bytes]()
    name, content = next(members, ("", b""))
    revision = _revision_of_backup(name, content)
    found, rows, objects = {name: hashlib.sha256(content).hexdigest()}, 0, 0
    psycopg_connection = connection.connection.driver_connection
    assert isinstance(psycopg_connection, psycopg.Connection)
    _require_empty(psycopg_connection, revision)
    storage.ensure_bucket()
    migrate_within(connection, revision)
    tables = {f"tables/{table.name}": table for table in _tables(connection)}
    _switch_triggers("DISABLE", tables.values(), psycopg_connection)
    hashes: object = None
    for name, content in members:
        if name in found:
            raise Invalid(f"{name} is in the backup twice; {_NOTHING}", "damaged_backup")
        if name == "hashes.json":
            hashes = _json(name, content)
            break
        if name in tables:
            rows += _load(psycopg_connection, tables[name], content)
        elif name.startswith("objects/"):
            objects += 1
            key = _key(name)
            if storage.put_once(key, content, hashlib.sha256(content).hexdigest()):
                stored.append(key)
        elif name in (_CERTIFICATES, _KEY):
            signing[name] = content
        else:
            raise Invalid(f"{name!a} in the backup is no table of revision {revision}; {_NOTHING}", "damaged_backup")
        found[name] = hashlib.sha256(content).hexdigest()
    if hashes != found or not found.keys() >= tables.keys():
        raise Invalid(f"a part or the end of the backup is missing; {_NOTHING}", "half_a_backup")
    _switch_triggers("ENABLE", tables.values(), psycopg_connection)
    with _refused_rows("a row"):
        migrate_within(connection)
    require_shapes(connection)
    if signing:
        _restore_signing_files(settings, signing)
    return Contents(revision, rows, objects, bool(signing))


def _signing_files(settings: Settings) -> dict[str, bytes]:
    try:
        return {_CERTIFICATES: settings.signing_certificates.read_bytes(), _KEY: settings.signing_key.read_bytes()}
    except OSError as error:
        raise Invalid(
            f"{error.filename} cannot be read: {error.strerror}; engines have the key, so back up where one runs, or "
            "leave --with-signing-key out",
            "no_signing_key",
        ) from error


def _restore_signing_files(settings: Settings, signing: Mapping[str, bytes]) -> None:
    """Write the key and its certificates. This is the last step, so that its failure undoes the others."""
    if signing.keys() != {_CERTIFICATES, _KEY}:
        raise Invalid(f"a part of the signing key is missing; {_NOTHING}", "half_a_backup")
    certificates, key = settings.signing_certificates, settings.signing_key
    try:
        for path, content in ((certificates, signing[_CERTIFICATES]), (key, signing[_KEY])):
            if path.exists() and path.read_bytes() != content:
                raise Conflict(
                    f"{path} is not that of the backup; move {certificates.name} and {key.name} away first, or name "
                    f"another OPAD_HOME; {_NOTHING}",
                    "other_signing_key",
                )
        write_credentials(certificates, key, certificates=signing[_CERTIFICATES], pem=signing[_KEY])
    except OSError as error:
        raise Invalid(
            f"the signing key cannot be written to {error.filename}: {error.strerror}; {_NOTHING}",
            "signing_key_not_written",
        ) from error


def _revision_of_backup(name: str, content: bytes) -> str:
    """Return the revision that `backup.json` names. Raises Invalid if this version cannot restore it."""
    head = _json(name, content) if name == "backup.json" else None
    if not isinstance(head, dict) or "format" not in head or not isinstance(head.get("revision"), str):
        raise Invalid(
            f"the file is not a backup: it does not begin with a readable backup.json; {_NOTHING}", "no_backup"
        )
    if head["format"] != FORMAT:
        raise Invalid(
            f"the backup has format {str(head['format'])[:20]!a}, and this version of OPAD reads {FORMAT}; restore it "
            f"with the version that wrote it; {_NOTHING}",
            "other_format",
        )
    revision: str = head["revision"]
    if revision not in known_revisions():
        raise Invalid(
            f"the backup has revision {revision[:40]!a}, which this version of OPAD does not know; restore it with the "
            f"version that wrote it, or a newer one; {_NOTHING}",
            "newer_backup",
        )
    return revision


def _json(name: str, content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{name} in the backup is not JSON; {_NOTHING}", "damaged_backup") from error


def _key(name: str) -> str:
    """Return the key of an object in the backup. Raises Invalid if the store would read it as another one."""
    key = name.removeprefix("objects/")
    if not key.isprintable() or not 0 < len(key.encode(errors="replace")) <= 1024 or {".", ".."} & set(key.split("/")):
        raise Invalid(f"{name[:80]!a} in the backup is not a key of the store; {_NOTHING}", "damaged_backup")
    return key


@dataclass(frozen=True)
class _Table:
    name: str
    columns: list[str]
    numbered: list[str]
    """Identity columns."""

    @property
    def column_list(self) -> sql.Composable:
        return sql.SQL(", ").join(map(sql.Identifier, self.columns))


def _tables(connection: sqlalchemy.Connection | sqlalchemy.Engine) -> list[_Table]:
    """Return the tables, each after those that its foreign keys refer to."""
    metadata = MetaData()
    metadata.reflect(connection)
    return [
        _Table(
            table.name,
            [column.name for column in table.columns if column.computed is None],
            [column.name for column in table.columns if column.identity is not None],
        )
        for table in metadata.sorted_tables
        if table.name != _REVISION
    ]


def _load(connection: Connection, table: _Table, content: bytes) -> int:
    """Replace the table's rows. Raises Invalid if the content does not fit."""
    target = sql.Identifier(table.name)
    with _refused_rows(f"tables/{table.name}"), connection.cursor() as cursor:
        cursor.execute(sql.SQL("DELETE FROM {}").format(target))  # rows that a migration inserted
        with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(target, table.column_list)) as copy:
            for start in range(0, len(content), _CHUNK):
                copy.write(content[start : start + _CHUNK])
        rows = cursor.rowcount
        for column in table.numbered:
            cursor.execute(
                sql.SQL("SELECT setval(pg_get_serial_sequence({}, {}), max({})) FROM {} HAVING max({}) > 0").format(
                    sql.Literal(table.name),
                    sql.Literal(column),
                    sql.Identifier(column),
                    target,
                    sql.Identifier(column),
                )
            )
    return rows


def require_shapes(connection: sqlalchemy.Connection) -> None:
    """Raise Invalid if JSON has another shape than the newest tables say: an object, or a list of objects."""
    for mapper in Table.registry.mappers:
        for column in (column for column in mapper.columns if isinstance(column.type, JSONB)):
            [stated] = get_args(mapper.class_.__annotations__[column.name])
            is_list = any(get_origin(one) is list for one in (stated, *get_args(stated)))
            accepted = ["array" if is_list else "object", *(["null"] if column.nullable else [])]
            wrong: list[ColumnElement[bool]] = [func.jsonb_typeof(column).not_in(accepted)]
            if is_list:
                wrong.append(func.jsonb_path_exists(column, cast(_NO_OBJECT, JSONPATH), cast({}, JSONB), True))
            if connection.scalar(select(exists().where(or_(*wrong)))):
                table = mapper.local_table
                raise Invalid(
                    f"tables/{table} of the backup has JSON of the wrong shape in {column.name}; {_NOTHING}",
                    "damaged_backup",
                )


@contextmanager
def _refused_rows(what: str) -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, psycopg.OperationalError) and not isinstance(cause, ProgramLimitExceeded):
            raise
        reason = str(cause).splitlines()[0]
        raise Invalid(
            f"{what} of the backup does not fit its table ({reason}); {_NOTHING}", "damaged_backup"
        ) from error


def _switch_triggers(what: Literal["ENABLE", "DISABLE"], tables: Iterable[_Table], connection: Connection) -> None:
    for table in tables:
        connection.execute(sql.SQL("ALTER TABLE {} {} TRIGGER USER").format(sql.Identifier(table.name), sql.SQL(what)))


@contextmanager
def _reading(file: IO[bytes]) -> Iterator[Iterator[tuple[str, bytes]]]:
    def members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            content = file.read() if file else b""
            if member.pax_headers.get(_HASH) != hashlib.sha256(content).hexdigest():
                raise Invalid(f"{member.name} in the backup is damaged; {_NOTHING}", "damaged_backup")
            yield member.name, content

    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            yield members(archive)
    except (tarfile.TarError, EOFError) as error:
        raise Invalid(
            f"the file is not a backup, or its end is missing ({error}); {_NOTHING}",
            "damaged_backup",
        ) from error


def _connection(settings: Settings) -> Connection:
    """Open a connection without the workers' time limits, which a large table would exceed."""
    return psycopg.connect(settings.sqlalchemy_url.replace("postgresql+psycopg://", "postgresql://", 1))


def _require_empty(connection: Connection, revision: str) -> None:
    """Raise Conflict unless the database is empty. Older versions left tables without an owner when interrupted."""
    found = _revision(connection)
    if found is None:
        return
    if found != revision or connection.execute("SELECT FROM owner LIMIT 1").fetchone() is not None:
        raise Conflict(
            "the database already holds tables of OPAD; restore into an empty one (another OPAD_HOME or another "
            "database)",
            "not_empty",
        )


def _revision(connection: Connection) -> str | None:
    if connection.execute("SELECT to_regclass(%s)", (_REVISION,)).fetchone() == (None,):
        return None
    row = connection.execute(sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(_REVISION))).fetchone()
    return None if row is None else str(row[0])
