"""The console command `opad`: runs and manages the service."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

import psycopg
from psycopg.errors import UndefinedColumn, UndefinedTable
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError, ProgrammingError

from api.domain import audit, keys, retention
from api.domain.commands import runnable
from api.domain.credentials import make_credentials, trusted_certificates
from api.domain.database import make_sessions
from api.domain.environment import accept_any_file_name, end_with, read_settings
from api.domain.errors import DomainError
from api.domain.provenance import summary
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.domain.text_rules import name_as_read
from migrations.run import migrate
from worker.backup import Contents, restore_backup, write_backup
from worker.stack.embedded import local_servers
from worker.stack.home import LocalError, published_environment
from worker.stack.launcher import run_stack, store_new_admin_key
from worker.stack.supervision import UnusableSetting
from worker.study_import import import_study
from worker.verify import verify_file


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opad", description="Run and manage OPAD, a service that personalizes one-step image generation."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    up_command = commands.add_parser(
        "up", help="run the service until Ctrl-C; starts its own servers where no setting names yours"
    )
    up_command.add_argument("--host", help="address to listen on (default: OPAD_HOST or 127.0.0.1)")
    up_command.add_argument(
        "--port", type=int, help="port to listen on, 0 for any free one (default: OPAD_PORT or 8000)"
    )
    up_command.set_defaults(run=up)

    commands.add_parser("migrate", help="bring the tables to the newest revision").set_defaults(run=migrate_database)

    key_commands = commands.add_parser("key", help="manage API keys").add_subparsers(required=True, metavar="action")
    create_command = key_commands.add_parser("create", help="make a key and print it once")
    create_command.add_argument(
        "--scopes", default="train,generate,read", help=f"some of {', '.join(keys.SCOPES)} (default %(default)s)"
    )
    create_command.add_argument(
        "--owner", default=keys.ADMIN_OWNER, help="owner of the key, created if new (default %(default)s)"
    )
    create_command.add_argument(
        "--label", default="made by opad key create", help="name of the key in lists (default: %(default)s)"
    )
    create_command.set_defaults(run=create_key)

    audit_commands = commands.add_parser("audit", help="the audit log").add_subparsers(required=True, metavar="action")
    verify_command = audit_commands.add_parser("verify", help="check the chain of hashes and name the first broken row")
    verify_command.add_argument(
        "--contains",
        metavar="NUMBER:HASH",
        type=audit.parse_mark,
        help="row that an earlier verify printed; detects removed rows",
    )
    verify_command.set_defaults(run=verify_audit)

    study_commands = commands.add_parser("study", help="user studies").add_subparsers(required=True, metavar="action")
    import_command = study_commands.add_parser("import", help="store the study in a folder, for people to vote on")
    import_command.add_argument("folder", type=Path, help="folder that `python -m opad_core tables --study` wrote")
    import_command.add_argument(
        "--owner", default=keys.ADMIN_OWNER, help="owner whose keys see the study (default %(default)s)"
    )
    import_command.set_defaults(run=store_study)

    for name, what in (("backup", "write database and files to"), ("restore", "fill an empty service from")):
        command = commands.add_parser(name, help=f"{what} one file")
        command.add_argument("file", type=Path, help="path of the file; - is standard output or input")
        if name == "backup":
            command.add_argument("--force", action="store_true", help="replace the file if it exists")
            command.add_argument(
                "--with-signing-key",
                action="store_true",
                help="include the key that signs images (default: not)",
            )
        command.set_defaults(run=back_up if name == "backup" else restore)

    retention_command = commands.add_parser("retention", help="remove what the settings keep no longer")
    mode = retention_command.add_mutually_exclusive_group(required=True)
    mode.add_argument("--preview", action="store_true", help="print what the next sweep would remove")
    mode.add_argument("--sweep", action="store_true", help="remove it now instead of tonight")
    retention_command.set_defaults(run=run_retention)

    image_command = commands.add_parser("verify", help="say whether an image is marked as generated, and by whom")
    image_command.add_argument("file", type=Path, help="JPEG, PNG, WebP or HEIC")
    image_command.set_defaults(run=verify_image)

    key_command = commands.add_parser("signing-key", help="make a key that signs images, for engines on other machines")
    key_command.add_argument("folder", type=Path, help="folder for key.pem and certificate.pem")
    key_command.set_defaults(run=make_signing_key)

    commands.add_parser("doctor", help="check each part of the service and say how to repair it").set_defaults(
        run=run_doctor
    )

    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = command_line().parse_args(argv)
    accept_any_file_name()
    try:
        exit_status: int = arguments.run(arguments)
    except UnusableSetting as error:
        end_with(*str(error).splitlines())
    except (LocalError, DomainError) as error:
        print(f"opad: {runnable(str(error))}", file=sys.stderr)
        return 1
    except (OperationalError, psycopg.OperationalError) as error:
        print(f"opad: the database does not answer: {getattr(error, 'orig', error)}", file=sys.stderr)
        return 1
    except ProgrammingError as error:
        if not isinstance(error.orig, (UndefinedTable, UndefinedColumn)):
            raise
        print(f"opad: {runnable('the database has no tables of this version; run `opad migrate`')}", file=sys.stderr)
        return 1
    return exit_status


def up(arguments: argparse.Namespace) -> int:
    given = {name: value for name in ("host", "port") if (value := getattr(arguments, name)) is not None}
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    run_stack(read_settings(**given), say=lambda line: print(line, flush=True), should_stop=stop.is_set)
    return 0


def migrate_database(arguments: argparse.Namespace) -> int:
    migrate(_settings_in_use().sqlalchemy_url)
    print("the database is at the newest revision")
    return 0


def create_key(arguments: argparse.Namespace) -> int:
    scopes = [scope.strip() for scope in arguments.scopes.split(",") if scope.strip()]
    unknown = sorted(set(scopes) - set(keys.SCOPES))
    if unknown or not scopes:
        raise LocalError(f"scopes are {', '.join(keys.SCOPES)}; got {arguments.scopes!r}")
    try:
        owner, label = name_as_read(arguments.owner), name_as_read(arguments.label)
    except ValueError as error:
        raise LocalError(f"--owner or --label {error}") from error
    with make_sessions(_settings_in_use()).begin() as session:
        key, secret = keys.create(session, owner_name=owner, label=label, scopes=scopes)
        audit.record(session, action="key.create", object_id=key.id, outcome="created", owner_id=key.owner_id)
    print(secret.text)
    return 0


def verify_audit(arguments: argparse.Namespace) -> int:
    with make_sessions(_settings_in_use())() as session:
        verdict = audit.verify(session, contains=arguments.contains)
    print(verdict.message)
    return 0 if verdict.intact else 1


def store_study(arguments: argparse.Namespace) -> int:
    settings = _settings_in_use()
    found = import_study(
        arguments.folder,
        owner_name=arguments.owner,
        sessions=make_sessions(settings),
        storage=Storage(settings),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(f"imported {found.title!r} with {found.groups} groups; vote at /dashboard/studies/{found.id}")
    return 0


def back_up(arguments: argparse.Namespace) -> int:
    """Write a backup. Only its owner can read the file, which holds photos and secrets; it appears when complete."""
    with _servers_in_use() as settings:
        write = partial(write_backup, settings, with_signing_key=arguments.with_signing_key)
        if arguments.file == Path("-"):
            held = write(sys.stdout.buffer)
        elif arguments.file.exists() and not arguments.force:
            raise LocalError(f"{arguments.file} already exists; name another file, or replace it with --force")
        else:
            held = _write_file(arguments.file, write)
    print(f"backed up {_counted(held)} to {arguments.file}", file=sys.stderr)
    return 0


def _write_file(target: Path, write: Callable[[IO[bytes]], Contents]) -> Contents:
    if target.is_dir() or not target.name:
        raise LocalError(f"{target} is a folder; name a file in it")
    partial = target.with_name(target.name + ".partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            held = write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):  # the first error is the one to tell, and there may be no file yet
            partial.unlink()
        raise LocalError(f"{target} cannot be written: {error.strerror}; name a file in another folder") from error
    return held


def _counted(held: Contents) -> str:
    return f"{held.rows} rows and {held.objects} files" + (", with the signing key," if held.signing_key else "")


def restore(arguments: argparse.Namespace) -> int:
    try:
        file = sys.stdin.buffer if arguments.file == Path("-") else arguments.file.open("rb")
    except OSError as error:
        raise LocalError(f"{arguments.file} cannot be read: {error.strerror}; name a backup file") from error
    with file, _servers_in_use() as settings:
        held = restore_backup(settings, file)
        key_file = None if settings.database_url == read_settings().database_url else store_new_admin_key(settings)
    print(f"restored {_counted(held)} of revision {held.revision}", file=sys.stderr)
    if key_file is not None:
        print(f"a new admin key is in {key_file}; the keys of the backup work too", file=sys.stderr)
    return 0


def run_retention(arguments: argparse.Namespace) -> int:
    settings = _settings_in_use()
    sessions, storage = make_sessions(settings), Storage(settings)
    with sessions() as db:
        cutoffs = retention.Cutoffs.at(db.scalars(select(func.now())).one(), settings)
    if arguments.preview:
        sizes = retention.sizes_of_references(storage)
        with sessions() as db:
            amounts = retention.preview(cutoffs, db, sizes)
        outdated = retention.Outdated(**{name: amount.count for name, amount in amounts.items()})
        megabytes = sum(amount.size for amount in amounts.values()) / 1e6
        print(f"would remove {outdated.sentence()}; {megabytes:.1f} MB")
    else:
        print(f"removed {retention.sweep(cutoffs, sessions, storage).sentence()}")
    return 0


def verify_image(arguments: argparse.Namespace) -> int:
    """Return 0 for a valid signature, else 1."""
    settings = _settings_of_the_running_stack()
    try:
        trusted = trusted_certificates(settings.signing_certificates)
    except ValueError as error:
        print(f"opad: {error}", file=sys.stderr)
        trusted = None
    found = verify_file(arguments.file, trusted=trusted or "", heic=settings.heic)
    print(summary(found, certificate_read=trusted is not None))
    for name, value in found["origin"].items():
        print(f"  {name:<8} {value}")
    return 0 if found["credentials"] == "valid" else 1


def make_signing_key(arguments: argparse.Namespace) -> int:
    certificate, key = arguments.folder / "certificate.pem", arguments.folder / "key.pem"
    try:
        made = make_credentials(certificate, key)
    except OSError as error:
        raise LocalError(f"cannot write to {arguments.folder}: {error.strerror}; name another folder") from error
    if not made:
        raise LocalError(f"{key} already exists; move it away first, and keep {certificate.name}")
    print(f"{key} signs images, and {certificate} says whose they are; only engines need the key")
    return 0


def run_doctor(arguments: argparse.Namespace) -> int:
    from worker import doctor  # imports torch, 400 MB that the launcher does not need

    return doctor.run_checks(_settings_of_the_running_stack(), say=lambda line: print(runnable(line)))


def _settings_of_the_running_stack() -> Settings:
    """Return the settings. Addresses that are not set come from the `opad up` that runs on this OPAD_HOME."""
    for name, value in published_environment(read_settings().home).items():
        os.environ.setdefault(name, value)
    return read_settings()


@contextmanager
def _servers_in_use() -> Iterator[Settings]:
    """Yield settings with servers: those that run or are set, else embedded ones for the length of the block."""
    settings = _settings_of_the_running_stack()
    if settings.database_url and settings.s3_endpoint:
        yield settings
    else:
        with local_servers(settings, say=lambda line: print(line, file=sys.stderr, flush=True)) as started:
            yield started


def _settings_in_use() -> Settings:
    settings = _settings_of_the_running_stack()
    if settings.database_url is None:
        raise LocalError(f"no service runs on {settings.home}; start it with `opad up`, or set OPAD_DATABASE_URL")
    return settings


if __name__ == "__main__":
    sys.exit(main())
