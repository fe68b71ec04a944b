"""Users, folders and files whose names are legal and rare."""

import os
from pathlib import Path

import psycopg
import pytest

from api.domain.settings import Settings
from api.domain.storage import Storage
from tests.environment.conftest import run, variables
from worker.stack.embedded import local_servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_data_folder_may_have_a_comma_in_its_name(short_folder):
    for content in (b"first", b"second"):  # the second start reads the data of the first
        with local_servers(Settings(home=short_folder / "photos, old, new"), say=lambda line: None) as settings:
            storage = Storage(settings)
            storage.put_once("kept", b"first", "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e")
            assert storage.read("kept") == b"first", content
            with psycopg.connect(settings.database_url):
                pass
    assert sorted(path.name for path in short_folder.glob("photos*")) == ["photos, old, new"]


def test_a_data_folder_that_is_not_utf_8_is_one_sentence_and_status_2(tmp_path, base):
    """PostgreSQL itself refuses it."""
    home = os.fsencode(tmp_path) + b"/caf\xe9"
    done = run("worker.cli", "up", env=variables(Path(os.fsdecode(home)), base))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"opad: OPAD_HOME is {home!r}, whose name is not UTF-8")


def test_a_setting_in_a_file_may_begin_with_a_tilde(tmp_path, base):
    (tmp_path / ".env").write_text("OPAD_HOME=~/opad data\n")
    env = {name: value for name, value in variables(tmp_path, base, HOME=str(tmp_path)).items() if name != "OPAD_HOME"}
    done = run("worker.cli", "doctor", env=env, folder=tmp_path)
    assert f"data in {tmp_path}/opad data\n" in done.stdout


@pytest.mark.parametrize("scheme", ["postgres", "postgresql+psycopg"])
def test_the_database_may_be_named_as_hosting_services_do(stack, tmp_path, base, scheme):
    address = stack.database_url.replace("postgresql", scheme, 1).replace("/opad?", "/template?")
    env = variables(tmp_path, base, OPAD_DATABASE_URL=address)
    for module in ("worker.cli migrate", "migrations.run"):
        done = run(*module.split(), env=env)
        assert done.returncode == 0, done.stderr


def test_photos_and_folders_whose_names_are_not_utf_8_are_learned(tmp_path, base, oddly_named_photos):
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9sultat"))
    options = ("--images", oddly_named_photos, "--class", "dog", "--iterations", "1")
    env = variables(tmp_path, base)
    done = run("opad_core", "train", *options, "--base", base, "--device", "cpu", "--out", out, env=env)
    assert done.returncode == 0, done.stderr
    assert "r\\udce9sultat" in done.stdout
    assert (out / "concept.safetensors").is_file()
