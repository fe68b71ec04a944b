"""Copy a trainer's standard error to our own and store its last lines with the job.

The process that started the trainer does this, because the most useful lines are those of a trainer that was killed or
that crashed outside Python.
"""

import contextlib
import os
import select
import sys
import time
from collections import deque
from typing import IO
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.domain import job_log
from api.domain.database import Sessions
from api.domain.job_log import LogLine
from worker.background import Background

log = structlog.get_logger()

SAVE_SECONDS = 1.0
_POLL_SECONDS = 0.2


class TrainerLog(Background):
    """Reads the pipe in a thread until its end. After the `with` block it only reads what is already in the pipe,
    because a process that the trainer left behind may hold it open."""

    def __init__(self, pipe: IO[bytes], sessions: Sessions, job_id: UUID, fence: int) -> None:
        super().__init__("trainer log")
        self._pipe, self._sessions = pipe, sessions
        self._job_id, self._fence = job_id, fence
        self._unsaved: deque[LogLine] = deque(maxlen=job_log.MAX_LINES)
        self._rest = b""

    def _run(self) -> None:
        saved_at = time.monotonic()
        is_open = True
        while is_open:
            is_ended = self._stopping.is_set()  # checked first, so that all output from before the end is read
            readable = select.select([self._pipe], [], [], 0 if is_ended else _POLL_SECONDS)[0]
            if readable:
                is_open = self._read()
            elif is_ended:
                break
            if self._unsaved and time.monotonic() - saved_at >= SAVE_SECONDS:
                self._save()
                saved_at = time.monotonic()
        self._pipe.close()
        self._take(self._rest)
        self._save()

    def _read(self) -> bool:
        """Read and pass on some output. Return False at the end of the pipe."""
        data = os.read(self._pipe.fileno(), 65536)
        with contextlib.suppress(OSError):  # a full disk must not stop a training
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
        *whole, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-65536:]  # bounded, because a progress bar never ends its line
        for line in whole:
            self._take(line)
        return data != b""

    def _take(self, line: bytes) -> None:
        if line.strip():
            self._unsaved.append(LogLine.read(line.decode(errors="replace")))

    def _save(self) -> None:
        """Write the new lines to the database. If it is away they are kept for the next try, up to MAX_LINES lines."""
        if not self._unsaved:
            return
        try:
            with self._sessions.begin() as db:
                db.execute(job_log.append(self._job_id, self._fence, list(self._unsaved)))
        except SQLAlchemyError as error:
            log.warning("trainer_log.unsaved", job_id=str(self._job_id), error=type(error).__name__)
            return
        self._unsaved.clear()
