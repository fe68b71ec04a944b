"""Who checks the weights of the base, and when."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from api.domain import base_checks, jobs
from api.domain.tables import Attempt, BaseCheck, ServedBase

BASE = "1" * 64


@pytest.fixture
def announced(sessions):
    with sessions.begin() as db:
        db.add(ServedBase(name="old", resolution=64, manifest_sha256="0" * 64, announced_at=func.now() - timedelta(1)))
        db.add(ServedBase(name="nano", resolution=64, manifest_sha256=BASE))


def run(sessions, statement):
    with sessions.begin() as db:
        return db.execute(statement)


def claim(sessions, worker="w1"):
    return run(sessions, base_checks.claim(worker, host=f"host of {worker}", idle_seconds=60)).scalar_one_or_none()


def stored(sessions):
    with sessions() as db:
        return db.scalars(select(BaseCheck)).one()


def test_the_present_base_is_checked_once_and_by_one_host(sessions, announced):
    assert claim(sessions) == BASE
    assert claim(sessions, "w2") is None, "w1 runs it"
    answers = [{"check": "padding", "outcome": "passed", "sentence": "with token 0"}]
    run(sessions, base_checks.finish(BASE, answers))
    assert claim(sessions, "w2") is None, "it is done"
    row = stored(sessions)
    assert (row.answers, row.host, row.started_at) == (answers, "host of w1", None)
    assert row.checked_at is not None


def test_without_an_announced_base_nothing_is_due(sessions):
    assert claim(sessions) is None
    run(sessions, base_checks.request())
    assert claim(sessions) is None


def test_a_request_makes_it_due_again_and_keeps_the_last_answers_until_then(sessions, announced):
    claim(sessions)
    run(sessions, base_checks.finish(BASE, [{"check": "padding"}]))
    run(sessions, base_checks.request())
    assert stored(sessions).answers == [{"check": "padding"}]
    assert claim(sessions, "w2") == BASE


def test_an_interrupted_check_is_due_again(sessions, announced):
    claim(sessions)
    run(sessions, base_checks.interrupt(BASE))
    assert stored(sessions).checked_at is None
    assert claim(sessions) == BASE


@pytest.mark.parametrize(("ago", "taken"), [(timedelta(minutes=59), None), (timedelta(minutes=61), BASE)])
def test_another_host_takes_over_after_an_hour(sessions, announced, ago, taken):
    claim(sessions)
    run(sessions, update(BaseCheck).values(started_at=func.now() - ago))
    assert claim(sessions, "w2") == taken


def test_a_host_that_has_or_just_had_a_job_checks_nothing(sessions, announced, make_job):
    make_job()
    job_id, fence, _ = run(sessions, jobs.claim("w1", lease_seconds=60)).one()
    assert claim(sessions, "w1") is None, "it trains"
    run(sessions, jobs.fail(job_id, fence, code="internal", detail="x"))
    assert claim(sessions, "w1") is None, "its job ended just now"
    run(sessions, update(Attempt).values(ended_at=func.now() - timedelta(seconds=61)))
    assert claim(sessions, "w1") == BASE


def test_the_job_of_another_host_does_not_matter(sessions, announced, make_job):
    make_job()
    run(sessions, jobs.claim("w1", lease_seconds=60)).one()
    assert claim(sessions, "w2") == BASE
