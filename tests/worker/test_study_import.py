"""A folder of a study is stored whole or not at all."""

import io
import json
import os
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from PIL import Image
from sqlalchemy import func, select

from api.domain import keys
from api.domain.database import make_sessions
from api.domain.storage import Storage
from api.domain.tables import Study, StudyGroup, StudyImage
from opad_core.bases.loading import load_base
from opad_core.tables.concepts import Concept
from opad_core.tables.rows import UNTOUCHED
from opad_core.tables.study import make_images
from opad_core.tables.study import write_study as write_tables_study
from tests.random_base import add_scene_prompts, write_random_base
from tests.study_folder import describe, save, write_study
from worker import cli
from worker.backup import restore_backup, write_backup
from worker.garbage import collect
from worker.study_import import MAX_METHODS


@pytest.fixture
def in_use(settings, monkeypatch):
    """Set the environment of a user who has servers and an owner."""
    for name in ("database_url", "s3_endpoint", "s3_access_key", "home"):
        monkeypatch.setenv(f"OPAD_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("OPAD_S3_SECRET_KEY", settings.s3_secret_key.get_secret_value())
    monkeypatch.setenv("OPAD_S3_BUCKET", settings.s3_bucket)
    with make_sessions(settings).begin() as db:
        keys.ensure_first_admin_key(db)
    return settings


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a study"
    write_study(folder)
    return folder


def stored(settings):
    """Count studies, groups, images and objects."""
    with make_sessions(settings)() as db:
        rows = [db.scalar(select(func.count()).select_from(table)) for table in (Study, StudyGroup, StudyImage)]
    return [*rows, len(list(Storage(settings).entries("studies/")))]


def test_a_study_is_stored_with_all_its_images(in_use, folder, capsys):
    assert cli.main(["study", "import", str(folder)]) == 0
    assert "imported 'Mugs and dogs' with 8 groups; vote at /dashboard/studies/" in capsys.readouterr().out
    assert stored(in_use) == [1, 8, 4 + 24, 4 + 24]
    assert collect(make_sessions(in_use), Storage(in_use)) == 0
    with make_sessions(in_use)() as db:
        assert db.scalars(select(Study.methods)).one()[0] == {"name": "alpha", "label": "Alpha Method"}
        files = [Storage(in_use).get(image.key, image.sha256) for image in db.scalars(select(StudyImage))]
    assert not [file for file in files if b"alpha" in file or b"beta" in file]


def test_the_folder_that_the_tables_write_is_imported(in_use, tmp_path):
    base_folder = write_random_base(tmp_path / "base")
    add_scene_prompts(base_folder)
    base = load_base(str(base_folder), device="cpu")
    concept = Concept("a dog", "dog", [Image.new("RGB", (64, 64), (number, 9, 9)) for number in range(3)])
    rows = [UNTOUCHED, replace(UNTOUCHED, name="again")]
    for row in rows:
        make_images(tmp_path / "written", base, row, concept)
    assert write_tables_study(tmp_path / "written", base, rows, [concept]) == 8
    assert cli.main(["study", "import", str(tmp_path / "written")]) == 0
    assert stored(in_use) == [1, 8, 3 + 16, 3 + 16]


def test_the_same_files_are_imported_once(in_use, folder, capsys):
    assert cli.main(["study", "import", str(folder)]) == 0
    assert cli.main(["study", "import", str(folder)]) == 1
    assert "imported before as the study 'Mugs and dogs'" in capsys.readouterr().err
    assert stored(in_use) == [1, 8, 28, 28]
    save(folder / "images" / "alpha" / "0.png", (1, 2, 3))
    assert cli.main(["study", "import", str(folder)]) == 0


def test_a_study_survives_backup_and_restore(in_use, folder):
    assert cli.main(["study", "import", str(folder)]) == 0
    backup = io.BytesIO()
    write_backup(in_use, backup)
    Storage(in_use).delete_prefix("studies/")
    with psycopg.connect(in_use.database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    restore_backup(in_use, io.BytesIO(backup.getvalue()))
    assert stored(in_use) == [1, 8, 28, 28]


def test_images_without_a_row_are_garbage(in_use, folder):
    assert cli.main(["study", "import", str(folder)]) == 0
    Storage(in_use).put_once("studies/0/1.png", b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    assert collect(make_sessions(in_use), Storage(in_use), min_age=timedelta(seconds=-5)) == 1
    assert stored(in_use) == [1, 8, 28, 28]


def change(study, **parts):
    return study | parts


UNFIT = {
    "another format": (lambda study: change(study, format=2), "study.json: format: is not 1"),
    "an unknown field": (lambda study: change(study, votes=[]), "study.json: votes: Extra inputs are not permitted"),
    "no list": (lambda study: [study], "study.json: it: "),
    "one method": (lambda study: change(study, methods=study["methods"][:1]), "study.json: methods: "),
    "too many methods": (
        lambda study: change(study, methods=[{"name": str(n), "label": "x"} for n in range(MAX_METHODS + 1)]),
        "study.json: methods: ",
    ),
    "one name twice": (
        lambda study: change(study, methods=study["methods"][:2] * 2),
        "two methods or two concepts have one name",
    ),
    "no groups": (lambda study: change(study, groups=[]), "study.json: groups: "),
    "too many groups": (lambda study: change(study, groups=study["groups"] * 200), "study.json: groups: "),
    "a hidden character": (lambda study: change(study, title="a\u202eb"), "contains U+202E"),
    "an unknown concept": (lambda study: change(study, concepts=study["concepts"][:1]), "group 5 names a concept"),
    "a missing method": (
        lambda study: change(study, groups=[{**study["groups"][0], "images": {"alpha": "x"}}]),
        "group 1 needs exactly one image of each method",
    ),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_an_unfit_description_is_refused_with_one_sentence(in_use, folder, unfit, capsys):
    spoil, said = UNFIT[unfit]
    describe(folder, spoil(json.loads((folder / "study.json").read_text())))
    refused(in_use, folder, said, capsys)


def test_text_that_is_no_json_is_refused(in_use, folder, capsys):
    (folder / "study.json").write_text("[" * 100_000)
    refused(in_use, folder, "study.json: it: Invalid JSON", capsys)


def test_a_missing_damaged_or_large_image_is_named(in_use, folder, capsys):
    image = folder / "images" / "beta" / "1.png"
    whole = image.read_bytes()
    image.unlink()
    refused(in_use, folder, "there is no file images/beta/1.png", capsys)
    image.write_bytes(whole[:60])
    refused(in_use, folder, "images/beta/1.png is damaged or cut off", capsys)
    image.write_bytes(b"GIF89a")
    refused(in_use, folder, "images/beta/1.png is a GIF", capsys)
    image.unlink()
    os.mkfifo(image)
    refused(in_use, folder, "there is no file images/beta/1.png", capsys)
    image.unlink()
    with image.open("wb") as file:
        file.truncate((12 << 20) + 1)
    refused(in_use, folder, "images/beta/1.png is larger than 12 MB", capsys)


@pytest.mark.parametrize("name", ["../outside.png", "images/../../outside.png", "link.png", "{folder}/../outside.png"])
def test_no_file_outside_the_folder_is_read(in_use, folder, name, capsys):
    save(folder.parent / "outside.png", (0, 0, 0))
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    study = json.loads((folder / "study.json").read_text())
    study["groups"][0]["images"] |= {"alpha": name.format(folder=folder)}
    describe(folder, study)
    refused(in_use, folder, "is outside of", capsys)


def test_a_path_that_no_file_can_have_is_refused(in_use, folder, capsys):
    study = json.loads((folder / "study.json").read_text())
    for name in ("a\0b", "x" * 900, "loop"):
        study["groups"][0]["images"] |= {"alpha": name}
        (folder / "loop").unlink(missing_ok=True)
        (folder / "loop").symlink_to("loop")
        describe(folder, study)
        refused(in_use, folder, "there is no file", capsys)


def test_an_unknown_owner_is_named(in_use, folder, capsys):
    assert cli.main(["study", "import", str(folder), "--owner", "bob"]) == 1
    assert "there is no owner 'bob'" in capsys.readouterr().err


def refused(settings, folder, sentence, capsys):
    assert cli.main(["study", "import", str(folder)]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert "nothing was imported" in said
    assert len(said.strip().splitlines()) <= 2, "a line of progress, and one sentence"
    assert stored(settings) == [0, 0, 0, 0]
