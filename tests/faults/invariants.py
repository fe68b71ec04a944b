"""What must hold after any fault, when the jobs have ended."""

import re
from datetime import timedelta
from itertools import pairwise

import psutil
from sqlalchemy import func, select

from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.storage import Storage
from api.domain.tables import Attempt, Bundle, Checkpoint, Export, Job, Reference, Webhook, WebhookDelivery
from opad_core.generation.bundle import read_bundle
from tests.job_life import ENDED
from worker.garbage import collect


def check(settings: Settings, sessions: Sessions, *, expected: bytes | None = None) -> None:
    """Check the invariants. Every job that succeeded must have `expected`, the bundle of a training without faults."""
    storage = Storage(settings)
    with sessions() as db:
        jobs = db.scalars(select(Job)).all()
        bundles = {bundle.job_id: bundle for bundle in db.scalars(select(Bundle))}
        assert len(bundles) == db.scalar(select(func.count()).select_from(Bundle)), "at most one bundle for a job"
        for job in jobs:
            assert job.state in ENDED, f"an accepted job comes to its end; this one is {job.state}"
            assert (job.id in bundles) == (job.state == "succeeded")
            assert job.attempt <= settings.max_attempts, "attempts are capped"
            attempts = db.scalars(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.fence)).all()
            assert [attempt.fence for attempt in attempts] == list(range(1, job.fence + 1)), "fences rise by one"
            assert all(attempt.ended_at and attempt.cause for attempt in attempts), "each attempt ended for a reason"
            for before, after in pairwise(attempts):
                assert before.ended_at <= after.started_at, "no two hold a job at once"
            hooks = db.scalar(select(func.count()).where(Webhook.owner_id == job.owner_id))
            events = db.scalars(select(WebhookDelivery.event).where(WebhookDelivery.job_id == job.id)).all()
            assert not hooks or f"job.{job.state}" in events, "the owner gets a message about the end"
        for bundle in bundles.values():
            data = storage.get(bundle.key, bundle.sha256)
            read_bundle(data)
            assert expected is None or data == expected, "exact resume: not a bit of difference"
        collect(sessions, storage, min_age=timedelta(seconds=-5))
        named = {row.key for row in bundles.values()}
        for table in (Reference, Export, Checkpoint):
            for row in db.scalars(select(table)):
                storage.get(row.key, row.sha256)
                named.add(row.key)
        left_over = [
            key
            for key in objects(settings)
            if key not in named and not re.match("jobs/[^/]+/(previews|images)/", key)  # these go with their job
        ]
        assert left_over == [], "what no row names is collected"
        assert db.scalars(select(Checkpoint.id).join(Job, Job.id == Checkpoint.job_id).where(
            Job.state == "succeeded")).all() == []  # fmt: skip
    trainers = [process for process in psutil.process_iter() if _trains_one_of(process, [job.id for job in jobs])]
    _, left = psutil.wait_procs(trainers, timeout=20)  # one that has just ended its job still has to exit
    assert left == [], "no trainer outlives its job"


def objects(settings: Settings, prefix: str = "") -> list[str]:
    """Return the keys in the store, without the launcher's probe."""
    return [entry.key for entry in Storage(settings).entries(prefix) if not entry.key.startswith("system/")]


def _trains_one_of(process: psutil.Process, job_ids: list[object]) -> bool:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    found = re.search(r"worker\.training --job (\S+)", words)
    return found is not None and found[1] in map(str, job_ids)
