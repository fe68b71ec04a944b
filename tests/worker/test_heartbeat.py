"""The heartbeat row of a process: it exists while the process runs and is deleted at a clean shutdown."""

from sqlalchemy import select

from api.domain.database import Sessions, make_sessions
from api.domain.settings import Settings
from api.domain.tables import Heartbeat
from tests.job_life import wait_until
from worker.heartbeat import ProcessHeartbeat, machine_facts


def seen(sessions: Sessions) -> list[Heartbeat]:
    with sessions() as db:
        return list(db.scalars(select(Heartbeat)))


def test_a_process_has_a_row_from_its_start_to_its_end(settings: Settings) -> None:
    sessions = make_sessions(settings)

    with ProcessHeartbeat(sessions, kind="trainer", name="here", facts=lambda: machine_facts(settings)):
        (row,) = wait_until(lambda: seen(sessions), seconds=20, what="the first heartbeat")
        assert (row.name, row.kind) == ("here", "trainer")
        assert 0 < row.facts["memory_used"] < row.facts["memory_total"]
        assert 0 < row.facts["disk_used"] < row.facts["disk_total"]

    assert seen(sessions) == []


def test_a_dead_database_stops_no_process(settings: Settings) -> None:
    nowhere = make_sessions(settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"}))

    with ProcessHeartbeat(nowhere, kind="engine", name="here", facts=dict):
        pass
