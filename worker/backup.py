"""The database and the bucket in one file, and back into an empty stack. Any PostgreSQL and any S3 server will do.

A tar archive: `backup.json` (the revision of the tables), `tables/<name>` as PostgreSQL's COPY writes them, out of one
snapshot; then `objects/<key>`; last `hashes.json`, without which a file is half a backup. Objects are read after the
rows: keys are written once, so whatever a row of the snapshot names is there, unless it was erased since.
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
"""In the header of each member, so that a damaged object is never stored: its key could not be written again."""
_CHUNK = 1 << 20

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Contents:
    revision: str
    rows: int
    objects: int


def write_backup(settings: Settings, file: IO[bytes]) -> Contents:
    """While the service runs or not. `file` need not be seekable. Raises StorageUnavailable, psycopg's errors."""
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
            except ObjectMissing:  # erased, or a checkpoint that is no longer kept
                continue
            objects += 1
        add_bytes("hashes.json", json.dumps(hashes).encode())
    return Contents(revision, rows, objects)


def restore_backup(settings: Settings, file: IO[bytes]) -> Contents:
    """Into a database without tables; the rows count once the whole file was read and found as it was written.

    Raises Conflict when the database is not empty, Invalid for a file that is no backup, or half of one, or damaged.
    """
    storage, found, rows, objects = Storage(settings), dict[str, str](), 0, 0
    with _reading(file) as members, _connection(settings) as connection:
        name, content = next(members, ("", b""))
        if name != "backup.json" or json.loads(content)["format"] != FORMAT:
            raise Invalid("the file is no backup of this version", "no_backup")
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
            raise Invalid("the backup is not whole, its end is missing; nothing counts as restored", "half_a_backup")
        for table in tables.values():
            connection.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(sql.Identifier(table.name)))
    migrate(settings.sqlalchemy_url)
    return Contents(revision, rows, objects)


@dataclass(frozen=True)
class _Table:
    name: str
    columns: list[str]
    numbered: list[str]
    """Columns that count by themselves."""

    @property
    def column_list(self) -> sql.Composable:
        return sql.SQL(", ").join(map(sql.Identifier, self.columns))


def _tables(settings: Settings) -> list[_Table]:
    """In an order in which no row names one that comes later."""
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
        cursor.execute(sql.SQL("DELETE FROM {}").format(target))  # what a migration put there
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
                raise Invalid(f"{member.name} in the backup is damaged; nothing counts as restored", "damaged_backup")
            yield member.name, content

    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            yield members(archive)
    except (tarfile.TarError, EOFError) as error:
        raise Invalid(
            f"the file cannot be read as a backup, or its end is missing ({error}); nothing counts as restored",
            "damaged_backup",
        ) from error


def _connection(settings: Settings) -> Connection:
    """One transaction; a table may take longer than the workers' time limits allow."""
    return psycopg.connect(settings.sqlalchemy_url.replace("postgresql+psycopg://", "postgresql://", 1))


def _require_empty(settings: Settings, revision: str) -> None:
    """No tables, or those of the backup without an owner, as a restore leaves them that did not come to its end."""
    with _connection(settings) as connection:
        there = _revision(connection)
        if there is None:
            return
        if there != revision or connection.execute("SELECT FROM owner LIMIT 1").fetchone() is not None:
            raise Conflict(
                "the database holds tables of OPAD already; restore into an empty stack (another OPAD_HOME, or "
                "another database)",
                "not_empty",
            )


def _revision(connection: Connection) -> str | None:
    if connection.execute("SELECT to_regclass(%s)", (_REVISION,)).fetchone() == (None,):
        return None
    row = connection.execute(sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(_REVISION))).fetchone()
    return None if row is None else str(row[0])
