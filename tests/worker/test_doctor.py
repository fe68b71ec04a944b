"""`opad doctor` against real servers, with and without the rest of the service."""

import shutil
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, text, update

from api.domain import retention
from api.domain.database import make_sessions
from api.domain.storage import Storage
from api.domain.tables import Bundle, Heartbeat, Job, JobState, Reference, ServedBase
from opad_core.training.memory import GIB
from tests.gpu import pretend_gpu
from tests.job_life import insert_job
from tests.random_base import claim_resolution, write_random_base
from worker.doctor import run_checks


def lines_of(settings) -> dict[str, str]:
    """Run the checks and return the line of each part by its name."""
    printed: list[str] = []
    run_checks(settings, say=printed.append)
    return {line.split()[1]: line for line in printed}


def test_each_part_has_a_line_and_a_missing_part_has_a_remedy(settings, sessions, notifications):
    lines = lines_of(settings.model_copy(update={"port": 1}))

    healthy = {
        "python", "torch", "base", "postgresql", "redis", "s3", "clocks", "engine", "levels", "compiling", "learning",
        "concepts", "decoder", "care", "disk",
    }  # fmt: skip
    assert {name for name, line in lines.items() if line.startswith("ok")} == healthy
    assert "start `python -m worker.host`" in lines["trainer"]
    assert "start `python -m worker.reconcile`" in lines["reconciler"]
    assert "start `python -m api`" in lines["api"]
    assert "writes, reads, deletes" in lines["s3"]


def test_a_wrong_clock_is_named(settings, sessions):
    with sessions.begin() as db:
        db.add(Heartbeat(name="there", kind="trainer", facts={"clock_ahead": -300.2}, seen_at=func.now()))
    assert lines_of(settings)["clocks"].startswith(
        "FAIL  clocks      the clock of the trainer there is 300 s behind the database's; set it"
    )


def test_a_reconciler_is_recognized_by_its_sweep(settings, sessions):
    retention.sweep_tonight(settings, sessions, Storage(settings))
    assert lines_of(settings)["reconciler"].startswith("ok")


@pytest.mark.parametrize(
    ("changed", "part", "words"),
    [
        ({"database_url": "postgresql://opad@127.0.0.1:1/opad"}, "postgresql", "check OPAD_DATABASE_URL"),
        ({"redis_url": "redis://127.0.0.1:1/0"}, "redis", "check OPAD_REDIS_URL"),
        ({"s3_endpoint": "http://127.0.0.1:1"}, "s3", "did not answer"),
        ({"engine_urls": ["http://127.0.0.1:1"]}, "engine", "read its log, or start it"),
        ({"base": "/no/such/base"}, "base", "/no/such/base"),
        ({"image_check": "flag", "image_scorer": "nobody.has:this"}, "care", "pip install 'opad[checks]'"),
    ],
)
def test_a_part_that_does_not_answer_is_named_with_the_remedy(settings, changed, part, words):
    broken = settings.model_copy(update=changed)
    broken.__dict__.pop("sqlalchemy_url", None)
    line = lines_of(broken)[part]
    assert line.startswith("FAIL")
    assert words in line


def test_concepts_of_a_replaced_base_are_counted_with_the_remedy(settings, sessions):
    photo = Reference(position=1, key="references/a", sha256="a", width=64, height=64)
    job_id = insert_job(sessions, [photo], state=JobState.succeeded)
    with sessions.begin() as db:
        concept_id = db.get_one(Job, job_id).concept_id
        of_old = {"version": 1, "key": "b", "sha256": "b", "size": 1, "base_sha256": "0" * 64}
        db.add(Bundle(job_id=job_id, concept_id=concept_id, **of_old))
        db.add(ServedBase(name="nano", resolution=64, manifest_sha256="0" * 64))
    assert lines_of(settings)["concepts"].split() == ["ok", "concepts", "1"]

    with sessions.begin() as db:
        db.execute(update(ServedBase).values(manifest_sha256="1" * 64))
    line = lines_of(settings)["concepts"]
    assert line.startswith("FAIL")
    assert "1 generate no images, because the base was replaced after their training" in line
    assert "`POST /v1/concepts/versions`" in line

    with sessions.begin() as db:
        db.execute(delete(Reference))
    line = lines_of(settings)["concepts"]
    assert line.startswith("ok")
    assert "1 of another base, which are in training or cannot be trained again" in line


def test_an_old_database_needs_a_migration(settings):
    with make_sessions(settings).begin() as db:
        db.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    assert "has revision 0001; run `opad migrate`" in lines_of(settings)["postgresql"]


def put_engine(sessions, name, *, kind="engine", seconds_ago=0, **facts):
    with sessions.begin() as db:
        seen_at = func.now() - timedelta(seconds=seconds_ago)
        db.add(Heartbeat(name=name, kind=kind, facts=facts, seen_at=seen_at))


def test_the_level_of_each_running_engine_is_listed_with_its_reason(settings, sessions):
    assert lines_of(settings)["levels"] == "ok    levels      no engine sends heartbeats"

    put_engine(sessions, "a:8100", level="compiled", level_reason=None)
    put_engine(sessions, "b:8100", level="captured", level_reason="no C compiler found (CC, gcc or clang); install gcc")
    put_engine(sessions, "c:8100", device="cuda")  # an engine of an older version
    put_engine(sessions, "lost:8100", seconds_ago=60, level="eager")
    put_engine(sessions, "trainer", kind="trainer")

    assert lines_of(settings)["levels"] == (
        "ok    levels      a:8100 compiled; b:8100 captured as a CUDA graph (no C compiler found (CC, gcc or clang); "
        "install gcc); c:8100 reports none"
    )


def test_what_would_stop_an_engine_from_compiling_is_named_in_advance(settings):
    compiling = settings.model_copy(update={"compile": True, "device": "cpu"})
    assert lines_of(compiling)["compiling"] == "ok    compiling   possible on cpu"
    (settings.home / "cache").mkdir(exist_ok=True)
    shutil.rmtree(settings.home / "cache" / "compiled")
    (settings.home / "cache" / "compiled").write_text("a file where the folder should be")

    line = lines_of(compiling)["compiling"]

    assert line.startswith(f"FAIL  compiling   {settings.home}/cache/compiled cannot be written")
    assert line.endswith("Until then an engine here serves more slowly; OPAD_COMPILE=false accepts that")
    assert lines_of(settings)["compiling"] == "ok    compiling   off (OPAD_COMPILE is false)"


@pytest.fixture
def on_gpu(settings, tmp_path):
    """Settings of a machine with a GPU, and a base of 512 pixels."""
    folder = write_random_base(tmp_path / "base")
    claim_resolution(folder, 512)
    return settings.model_copy(update={"device": "cuda", "base": str(folder)})


def test_how_a_trainer_fits_into_the_free_memory_is_said(on_gpu, monkeypatch):
    on_cpu = on_gpu.model_copy(update={"device": "cpu"})
    assert lines_of(on_cpu)["learning"] == "ok    learning    on cpu: float32"
    pretend_gpu(monkeypatch, free=23 * GIB, total=24 * GIB)
    assert lines_of(on_gpu)["learning"] == "ok    learning    on cuda: half precision, gradient checkpointing"


def test_a_gpu_that_is_too_small_to_learn_is_named_with_the_remedy(on_gpu, monkeypatch):
    pretend_gpu(monkeypatch, free=8 * GIB, total=8 * GIB)
    line = lines_of(on_gpu)["learning"]
    assert line.startswith("FAIL  learning    learning with batch_size=")
    assert "needs 13.4 GiB of free GPU memory, and 8.0 GiB are free; stop other programs that use the GPU" in line
    assert line.endswith(". A machine without a trainer needs less")


def test_memory_that_a_running_job_uses_is_no_failure(on_gpu, sessions, monkeypatch):
    pretend_gpu(monkeypatch, free=8 * GIB, total=24 * GIB)
    insert_job(sessions, [], state=JobState.running)
    assert lines_of(on_gpu)["learning"].startswith("ok    learning    not checked, because a job is running")
