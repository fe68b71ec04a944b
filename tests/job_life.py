"""Jobs in a real database and the processes that train them, for the tests of the domain, the worker and faults."""

import hashlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, get_args
from uuid import UUID

import numpy as np
import pytest
import redis
from PIL import Image
from sqlalchemy import select
from uuid_utils.compat import uuid7

from api.domain.database import Sessions, make_sessions
from api.domain.jobs import notify_queue
from api.domain.settings import Preset, Settings
from api.domain.storage import Storage, reference_key
from api.domain.tables import Checkpoint, Concept, Job, JobState, Owner, Reference
from worker.stack.embedded import environment
from worker.stack.parent_death import dies_with_parent

_T = TypeVar("_T")

ENDED = {JobState.succeeded, JobState.failed, JobState.cancelled}


@pytest.fixture
def sessions(settings: Settings) -> Sessions:
    return make_sessions(settings)


@pytest.fixture
def make_job(sessions: Sessions) -> Callable[..., UUID]:
    """Insert a job of a new concept without references; `columns` replace the defaults."""

    def make(**columns: object) -> UUID:
        return insert_job(sessions, [], **columns)

    return make


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.random_base import write_random_base  # imports torch, seconds that the tests of the api do not need

    return write_random_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def quick(settings: Settings, base_folder: Path) -> Settings:
    """Settings of the fault tests: a base that trains in seconds, and short intervals.

    With a lease of 3 s, a machine with four times more work than cores delayed a heartbeat for too long.
    """
    intervals = {
        "lease_seconds": 12.0,
        "heartbeat_seconds": 0.5,
        "reconcile_seconds": 0.5,
        "poll_seconds": 0.5,
        "checkpoint_seconds": 0.2,
    }
    return settings.model_copy(update={"base": str(base_folder), "device": "cpu", **intervals})


@pytest.fixture
def queue_training(sessions: Sessions, quick: Settings) -> Callable[..., UUID]:
    """Insert a job with four references in the store, `iterations` long; `overrides` replace other settings."""

    def queue(*, iterations: int, method: str = "opad", **overrides: object) -> UUID:
        of_opad = {"collaborative_iterations": 2} if method == "opad" else {}
        return insert_job(
            sessions,
            _store_references(Storage(quick)),
            method=method,
            overrides={"iterations": iterations, **of_opad, **overrides},
        )

    return queue


@pytest.fixture
def notifications(settings: Settings) -> Iterator[Callable[..., int]]:
    """Count the unread notifications of a preset in the broker, which all tests share: none before and after."""
    address = (settings.redis_url or "").replace("redis+socket://", "unix://").partition("?")[0]
    broker = redis.Redis.from_url(address)
    queues = [notify_queue(preset) for preset in get_args(Preset)]
    broker.delete(*queues)
    yield lambda preset="default": broker.llen(notify_queue(preset))
    broker.delete(*queues)


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`start_process(settings, "worker.host")` starts a program and kills it after the test. Prints its output."""
    started: list[subprocess.Popen[bytes]] = []
    log = tmp_path / "processes.log"

    def start(settings: Settings, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            process = subprocess.Popen(
                dies_with_parent(sys.executable, "-m", module, *arguments),
                env={**os.environ, **process_environment(settings)},
                cwd=Path(__file__).parents[1],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
    print(log.read_text() if log.exists() else "")


def process_environment(settings: Settings) -> dict[str, str]:
    names = ("base", "device", "lease_seconds", "heartbeat_seconds", "reconcile_seconds", "poll_seconds")
    names = (*names, "checkpoint_seconds", "check_base_after_seconds")
    own = {f"OPAD_{name.upper()}": str(getattr(settings, name)) for name in names}
    return {**environment(settings), **own, "OMP_NUM_THREADS": "1"}


def insert_job(sessions: Sessions, references: list[Reference], **columns: object) -> UUID:
    with sessions.begin() as db:
        owner = Owner(id=uuid7(), name=f"owner {uuid7()}")
        db.add(owner)
        db.flush()
        concept = Concept(id=uuid7(), owner_id=owner.id, name="blue mug", class_noun="mug", base="nano")
        db.add(concept)
        db.flush()
        for reference in references:
            reference.concept_id = concept.id
            db.add(reference)
        job = Job(id=uuid7(), owner_id=owner.id, concept_id=concept.id, version=1, preset="default", seed=7)
        for name, value in columns.items():
            setattr(job, name, value)
        db.add(job)
    return job.id


def read_job(sessions: Sessions, job_id: UUID) -> Job:
    with sessions.begin() as db:
        return db.get_one(Job, job_id)


def checkpoints_of(sessions: Sessions, job_id: UUID) -> list[Checkpoint]:
    with sessions.begin() as db:
        return list(db.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id)))


def wait_until(check: Callable[[], _T | None], *, seconds: float, what: str) -> _T:
    """Call `check` twenty times per second until it returns something, and return that. Fail after the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"{what}: not within {seconds:.0f} s")


def wait_for_end(sessions: Sessions, job_id: UUID, *, seconds: float = 240) -> Job:
    def ended() -> Job | None:
        job = read_job(sessions, job_id)
        return job if job.state in ENDED else None

    return wait_until(ended, seconds=seconds, what="the job's end")


def reference_images() -> list[Image.Image]:
    """Return the references of every job that `queue_training` makes."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    return [Image.fromarray(small).resize((80, 80), Image.Resampling.BICUBIC) for small in pixels]


def _store_references(storage: Storage) -> list[Reference]:
    references = []
    for position, image in enumerate(reference_images()):
        png = io.BytesIO()
        image.save(png, "PNG")
        sha256 = hashlib.sha256(png.getvalue()).hexdigest()
        storage.put_once(reference_key(sha256), png.getvalue(), sha256)
        references.append(Reference(position=position, key=reference_key(sha256), sha256=sha256, width=80, height=80))
    return references
