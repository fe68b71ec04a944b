import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from api.domain import keys
from api.domain.commands import runnable
from api.domain.database import make_sessions
from api.domain.tables import ApiKey, Owner
from worker import cli

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def in_use(settings, monkeypatch):
    """Set the environment of a user who has servers."""
    for name, value in {"OPAD_DATABASE_URL": settings.database_url, "OPAD_HOME": str(settings.home)}.items():
        monkeypatch.setenv(name, value)
    return settings


def test_a_new_key_is_printed_and_stored_as_a_hash(in_use, capsys):
    assert cli.main(["key", "create", "--scopes", "read, generate", "--owner", "alice"]) == 0
    text = capsys.readouterr().out.strip()
    with make_sessions(in_use)() as session:
        (key,) = session.scalars(select(ApiKey)).all()
    assert keys.parse(text) == key.secret_sha256
    assert key.scopes == ["read", "generate"]


def test_an_unknown_scope_is_refused_with_the_known_ones(in_use, capsys):
    assert cli.main(["key", "create", "--scopes", "root"]) == 1
    assert "scopes are admin, train, generate, read; got 'root'" in capsys.readouterr().err


def test_an_owners_name_is_read_as_the_api_reads_it(in_use, capsys):
    assert cli.main(["key", "create", "--owner", "Rene\u0301\u00a0"]) == 0
    with make_sessions(in_use)() as session:
        assert session.scalars(select(Owner.name)).all() == ["Ren\u00e9"]
    assert cli.main(["key", "create", "--owner", "al\u200bice"]) == 1
    assert "contains U+200B" in capsys.readouterr().err


def test_without_a_running_service_it_says_how_to_start_one(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OPAD_HOME", str(tmp_path))
    assert cli.main(["migrate"]) == 1
    assert runnable("start it with `opad up`, or set OPAD_DATABASE_URL") in capsys.readouterr().err


def test_migrating_twice_succeeds(in_use):
    assert [cli.main(["migrate"]), cli.main(["migrate"])] == [0, 0]


def test_a_taken_port_is_named(stack, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPAD_HOME", str(tmp_path))
    taken = stack.s3_endpoint.rpartition(":")[2]
    assert cli.main(["up", "--port", taken]) == 1
    assert f"port {taken} is taken" in capsys.readouterr().err


def test_the_launcher_imports_no_torch():
    code = "import sys, worker.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_the_audit_log_is_verified_from_the_command_line(in_use, capsys):
    cli.main(["key", "create"])
    capsys.readouterr()
    assert cli.main(["audit", "verify"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("1 rows, unbroken")
    mark = printed.split()[-1]
    assert cli.main(["audit", "verify", "--contains", mark]) == 0
    assert cli.main(["audit", "verify", "--contains", f"2:{mark.partition(':')[2]}"]) == 1
