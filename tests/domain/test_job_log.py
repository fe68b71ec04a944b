"""The last lines of a trainer's log in the database."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from uuid_utils.compat import uuid7

from api.domain import job_log
from api.domain.job_log import MAX_LINES, LogLine
from api.domain.tables import JobEvent
from tests.job_life import insert_job


def line(n: int) -> LogLine:
    return LogLine("2026-01-31T08:15:00+00:00", "info", f"line {n}")


def kept(sessions, job_id) -> list[str]:
    with sessions() as db:
        return [event.data["text"] for event in reversed(db.scalars(job_log.tail(job_id, MAX_LINES)).all())]


def append(sessions, job_id, lines) -> int | None:
    with sessions.begin() as db:
        return db.scalar(job_log.append(job_id, 3, lines))


def test_a_log_line_becomes_text_without_secrets():
    written = (
        '{"step": 300, "error": "http://bob:hunter2@store:9000 said no", "job_id": "x", "fence": 3, '
        '"event": "checkpoint.failed", "level": "warning", "timestamp": "2026-01-31T08:15:00Z", '
        '"exception": "Trace\\nEnd"}'
    )
    sentence = "checkpoint.failed step=300 error=http://bob:[hidden]@store:9000 said no\nTrace\nEnd"
    assert LogLine.read(written) == LogLine("2026-01-31T08:15:00+00:00", "warning", sentence)


def test_other_output_is_kept_unchanged_but_short():
    crash = LogLine.read("Fatal Python error: Segmentation fault\0")
    assert (crash.level, crash.text) == ("output", "Fatal Python error: Segmentation fault")
    assert LogLine.read("x" * 10_000).text == "x" * 1999 + "…"
    assert LogLine.read("x" * 2000).text == "x" * 2000


def test_another_programs_json_can_be_kept_and_read(sessions):
    job_id = insert_job(sessions, [])
    strange = LogLine.read('{"event": "half a pair: \\ud800", "timestamp": 17, "level": {"a": 1}}')

    assert append(sessions, job_id, [strange]) == 1
    assert kept(sessions, job_id) == ["half a pair: ?"]
    assert datetime.now(UTC) - datetime.fromisoformat(strange.at) < timedelta(minutes=1)


def test_the_newest_lines_are_kept_in_their_order_and_no_others_events_go(sessions):
    ours, other = insert_job(sessions, []), insert_job(sessions, [])
    append(sessions, other, [line(0)])
    for start in range(0, MAX_LINES + 30, 10):
        assert append(sessions, ours, [line(n) for n in range(start, start + 10)]) == 10

    assert kept(sessions, ours) == [f"line {n}" for n in range(30, MAX_LINES + 30)]
    assert kept(sessions, other) == ["line 0"]
    with sessions() as db:
        logged = select(func.count()).where(JobEvent.job_id == ours, JobEvent.kind == "log")
        assert db.scalar(logged) == 200
        assert db.scalars(select(JobEvent.kind).where(JobEvent.job_id == ours).order_by(JobEvent.id)).first() == "state"
        assert db.scalars(job_log.tail(ours, 1)).one().data["fence"] == 3


def test_a_job_that_was_erased_keeps_nothing(sessions):
    assert append(sessions, uuid7(), [line(0)]) is None
