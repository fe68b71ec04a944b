"""Write a heartbeat of this process, with facts about its machine, for the dashboard. Nothing else depends on it."""

import shutil
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psutil
import structlog
from sqlalchemy import delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from api.domain.clocks import Watch, ahead_of_database
from api.domain.database import Sessions
from api.domain.settings import Settings
from api.domain.tables import Heartbeat
from worker.background import Background

log = structlog.get_logger()

EVERY_SECONDS = 10.0
_EXPIRY = timedelta(days=1)
"""Rows without a heartbeat for this long are deleted: their machine is gone."""


def machine_facts(settings: Settings) -> dict[str, Any]:
    """Return memory and disk in bytes, `load` (the share of all cores in use since the last call) and the machine.

    `machine` is the host's name. Containers have names of their own, so their figures are shown apart.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(settings.home)
    return {
        "machine": socket.gethostname(),
        "memory_used": memory.total - memory.available,
        "memory_total": memory.total,
        "process_memory": psutil.Process().memory_info().rss,
        "disk_used": disk.used,
        "disk_total": disk.total,
        "load": psutil.cpu_percent() / 100,
    }


class ProcessHeartbeat(Background):
    """`with ProcessHeartbeat(...):` writes heartbeats until the block ends, and then deletes the row."""

    _join_timeout = EVERY_SECONDS

    def __init__(self, sessions: Sessions, *, kind: str, name: str, facts: Callable[[], dict[str, Any]]) -> None:
        super().__init__("process-heartbeat")
        self._sessions, self._kind, self._name, self._facts = sessions, kind, name, facts
        self._clock = Watch(f"the {kind} {name}", "the database")

    def _run(self) -> None:
        started = True
        while True:
            self._write(started=started)
            started = False
            if self._stopping.wait(EVERY_SECONDS):
                break
        self._delete()

    def _write(self, *, started: bool) -> None:
        row: dict[str, Any] = {"kind": self._kind, "facts": self._facts(), "seen_at": func.now()}
        if started:
            row["started_at"] = func.now()
        try:
            with self._sessions.begin() as db:
                ahead = ahead_of_database(db)
                self._clock.note(ahead)
                row["facts"] |= {"clock_ahead": round(ahead, 1)}
                statement = insert(Heartbeat).values(name=self._name, **row)
                db.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))
                db.execute(delete(Heartbeat).where(Heartbeat.seen_at < func.now() - _EXPIRY))
        except DBAPIError as error:
            log.info("heartbeat.write_failed", error=str(error.orig))

    def _delete(self) -> None:
        try:
            with self._sessions.begin() as db:
                db.execute(delete(Heartbeat).where(Heartbeat.name == self._name))
        except DBAPIError as error:
            log.info("heartbeat.write_failed", error=str(error.orig))
