"""Copy the database and the bucket to one file, and restore them into an empty service.

The file is a tar archive. `backup.json` holds the revision of the tables. `tables/<name>` holds the output of
PostgreSQL's COPY; all tables come from one snapshot. `objects/<key>` follows. `hashes.json` is last; an archive without
it is incomplete. Objects are read after the rows. Keys are written once, so every object that the snapshot names is
there, unless it was erased in between.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import psycopg
from psycopg import sql
from sqlalchemy import MetaData, NullPool, create_engine

from api.domain.errors import Conflict, Invalid
from api.domain.settings import Settings
from api.domain.storage import ObjectMissing, Storage
from migrations.run import migrate

FORMAT = 1
_REVISION = "alembic_version"
_HASH = "OPAD.sha256"
"""Header of each member. A damaged object must never be stored, because its key could not be written again."""
_CHUNK = 1 << 20

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Contents:
    revision: str
    rows: int
    objects: int


def write_backup(settings: Settings, file: IO[bytes]) -> Contents:
    """Write a backup to `file`, which need not be seekable. The service may be running.

    Raises Invalid for a database without tables, StorageUnavailable, and psycopg's errors.
    """
    storage, hashes, rows = Storage(settings), dict[str, str](), 0
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
        for table in _tables(settings):
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
        add_bytes("hashes.json", json.dumps(hashes).encode())
    return Contents(revision, rows, objects)


def restore_backup(settings: Settings, file: IO[bytes]) -> Contents:
    """Restore a backup into an empty database. The rows are committed after the whole file was read and verified.

    Raises Conflict if the database is not empty, and Invalid if the file is not a backup, is incomplete or is damaged.
    """
    storage, found, rows, objects = Storage(settings), dict[str, str](), 0, 0
    with _reading(file) as members, _connection(settings) as connection:
        name, content = next(members, ("", b""))
        if name != "backup.json" or json.loads(content)["format"] != FORMAT:
            raise Invalid("the file is not a backup of this version", "no_backup")
        found[name] = hashlib.sha256(content).hexdigest()
        revision = json.loads(content)["revision"]
        _require_empty(settings, revision)
        storage.ensure_bucket()
        migrate(settings.sqlalchemy_url, revision)
        tables = {table.name: table for table in _tables(settings)}
        for table in tables.values():
            connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(sql.Identifier(table.name)))
        hashes: dict[str, str] | None = None
        for name, content in members:
            kind, _, rest = name.partition("/")
            if kind == "tables":
                rows += _load(connection, tables[rest], content)
            elif kind == "objects":
                storage.put_once(rest, content, hashlib.sha256(content).hexdigest())
                objects += 1
            else:
                hashes = json.loads(content)
                break
            found[name] = hashlib.sha256(content).hexdigest()
        if hashes != found:
            raise Invalid("the end of the backup is missing; nothing was restored", "half_a_backup")
        for table in tables.values():
            connection.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(sql.Identifier(table.name)))
    migrate(settings.sqlalchemy_url)
    return Contents(revision, rows, objects)


@dataclass(frozen=True)
class _Table:
    name: str
    columns: list[str]
    numbered: list[str]
    """Identity columns."""

    @property
    def column_list(self) -> sql.Composable:
        return sql.SQL(", ").join(map(sql.Identifier, self.columns))


def _tables(settings: Settings) -> list[_Table]:
    """Return the tables, each after those that its foreign keys refer to."""
    metadata = MetaData()
    metadata.reflect(create_engine(settings.sqlalchemy_url, poolclass=NullPool))
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
    target = sql.Identifier(table.name)
    with connection.cursor() as cursor:
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


@contextmanager
def _reading(file: IO[bytes]) -> Iterator[Iterator[tuple[str, bytes]]]:
    def members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
        for member in archive:
            file = archive.extractfile(member)
            content = file.read() if file else b""
            if member.pax_headers.get(_HASH) != hashlib.sha256(content).hexdigest():
                raise Invalid(f"{member.name} in the backup is damaged; nothing was restored", "damaged_backup")
            yield member.name, content

    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            yield members(archive)
    except (tarfile.TarError, EOFError) as error:
        raise Invalid(
            f"the file is not a backup, or its end is missing ({error}); nothing was restored",
            "damaged_backup",
        ) from error


def _connection(settings: Settings) -> Connection:
    """Open a connection without the workers' time limits, which a large table would exceed."""
    return psycopg.connect(settings.sqlalchemy_url.replace("postgresql+psycopg://", "postgresql://", 1))


def _require_empty(settings: Settings, revision: str) -> None:
    """Raise Conflict unless the database is empty. Tables without an owner are left by an interrupted restore."""
    with _connection(settings) as connection:
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
