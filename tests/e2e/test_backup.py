"""What was learned survives the loss of everything: one file, an empty stack, the same picture."""

import hashlib
import os
import shutil
from pathlib import Path

import httpx
import pytest

from api.domain.settings import Settings
from opad_core import read_bundle
from tests.e2e.service import client_of, post_concept
from tests.job_life import wait_until
from tests.random_base import write_random_base
from worker import cli
from worker.stack.launcher import local_stack


def settings_in(home: Path, base: Path) -> Settings:
    addresses = {"database_url": None, "redis_url": None, "s3_endpoint": None}
    return Settings(home=home, base=str(base), device="cpu", port=0, generate_timeout_seconds=60, **addresses)


def learn(client: httpx.Client, name: str, *, keep_teacher: bool = False) -> str:
    """Return the path of the trained version."""
    posted = post_concept(client, name, iterations=2, keep_teacher=keep_teacher)
    job = f"/v1/jobs/{posted['id']}"
    wait_until(lambda: client.get(job).json()["finished_at"], seconds=200, what="the training")
    assert client.get(job).json()["state"] == "succeeded"
    return f"/v1/concepts/{posted['concept_id']}/versions/1/bundle"


def teacher_of(client: httpx.Client, version: str) -> bytes:
    link = client.get(version, params={"layout": "teacher"}).raise_for_status().json()
    file = httpx.get(link["url"], trust_env=False).raise_for_status().content
    assert (len(file), hashlib.sha256(file).hexdigest()) == (link["size"], link["sha256"])
    return file


def draw(client: httpx.Client) -> bytes:
    asked = {"concept": "a dog", "prompt": "a <concept> on the beach", "seed": 7}
    answer = client.post("/generate", json=asked, headers={"Accept": "image/png"})
    assert answer.status_code == 200, answer.text
    return answer.content


def signs_in(client: httpx.Client, key: str) -> bool:
    return client.post("/dashboard/sign-in", data={"key": key}).status_code == 303


@pytest.mark.slow
@pytest.mark.timeout(600)  # three starts of the stack and two trainings
def test_a_restored_stack_draws_the_same_picture_byte_for_byte(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_random_base(short_folder / "base of the backup")
    lost, empty = short_folder / "lost home", short_folder / "empty home"
    file = short_folder / "backup.tar"

    with local_stack(settings_in(lost, base), say=print) as running, client_of(running) as client:
        version = learn(client, "a dog", keep_teacher=True)
        picture, teacher = draw(client), teacher_of(client, version)
        assert read_bundle(teacher).network == "teacher"
        monkeypatch.setenv("OPAD_HOME", str(lost))
        file.write_bytes(b"an older backup")
        assert cli.main(["backup", str(file)]) == 1
        assert f"{file} already exists; name another file, or replace it with --force" in capsys.readouterr().err
        assert file.read_bytes() == b"an older backup"
        assert cli.main(["backup", str(file), "--force"]) == 0  # while it runs
        # The addresses of the running stack, which the command took from its home into this process; monkeypatch would
        # bring them back at the end, to tests that start a stack of their own.
        for name in [name for name in os.environ if name.startswith("OPAD_")]:
            del os.environ[name]
    assert file.stat().st_mode & 0o077 == 0
    old_key = (lost / "admin-key").read_text().strip()
    shutil.rmtree(lost)

    monkeypatch.setenv("OPAD_HOME", str(empty))
    assert cli.main(["restore", str(file)]) == 0
    key_file = empty / "admin-key"
    assert f"a new admin key is in {key_file}; the keys of the backup work too" in capsys.readouterr().err
    assert key_file.stat().st_mode & 0o777 == 0o600
    lines: list[str] = []
    with local_stack(settings_in(empty, base), say=lines.append) as running, client_of(running) as client:
        assert f"admin key    in {key_file}" in lines
        assert "An admin key is in the file <code>admin-key</code>" in client.get("/dashboard/sign-in").text
        assert signs_in(client, key_file.read_text().strip())
        assert signs_in(client, old_key)
        assert draw(client) == picture
        assert client.get("/v1/audit").json()["items"]
        learn(client, "a second dog")  # whatever numbers itself goes on where it was
        assert teacher_of(client, version) == teacher
        receipt = client.delete(version.partition("/versions")[0]).raise_for_status().json()
        assert hashlib.sha256(teacher).hexdigest() in receipt["exports"]
        kinds = {kind["kind"]: kind["objects"] for kind in client.get("/v1/storage").json()["kinds"]}
        assert (kinds["bundles"], kinds["exports"]) == (1, 3), "the second dog's"
    assert cli.main(["restore", str(file)]) == 1
    assert "restore into an empty one" in capsys.readouterr().err
