"""Keep the last lines of a trainer's log as events of its job. They outlive the trainer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Select, column, delete, func, insert, literal, select
from sqlalchemy.dialects.postgresql import JSONB

from api.domain.redaction import redacted
from api.domain.tables import Job, JobEvent

KIND = "log"
MAX_LINES = 200
"""The newest lines kept for a job: a trainer that warns at each step must not fill the table."""
MAX_CHARACTERS = 2000
"""The longest line in characters."""

_CLAIM_FIELDS = ("job_id", "fence")


@dataclass(frozen=True)
class LogLine:
    at: str
    """ISO 8601."""
    level: str
    """The trainer's level, or `output` for text beside its log: a crash's trace, a driver's warning."""
    text: str

    @classmethod
    def read(cls, written: str) -> Self:
        """Parse a line of standard error. Hides secrets and drops what PostgreSQL cannot store."""
        try:
            entry = json.loads(written)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or "event" not in entry:
            return cls(datetime.now(UTC).isoformat(), "output", _storable(written))
        at, level = _time(entry.pop("timestamp", None)), _storable(str(entry.pop("level", "info")))
        return cls(at, level, _storable(_sentence(entry)))


def _time(written: Any) -> str:
    """Return the time in ISO 8601, or now if the field is no time: it may come from another program's JSON."""
    try:
        return datetime.fromisoformat(written).isoformat()
    except (TypeError, ValueError):
        return datetime.now(UTC).isoformat()


def _sentence(entry: Mapping[str, Any]) -> str:
    """Return the event and its values on one line, then the trace."""
    values = [f"{name}={value}" for name, value in entry.items() if name not in ("event", "exception", *_CLAIM_FIELDS)]
    trace = [f"\n{entry['exception']}"] if "exception" in entry else []
    return " ".join([str(entry["event"]), *values]) + "".join(trace)


def _storable(text: str) -> str:
    shown = str(redacted(text)).replace("\0", "").encode(errors="replace").decode()
    return shown if len(shown) <= MAX_CHARACTERS else shown[: MAX_CHARACTERS - 1] + "…"


def append(job_id: UUID, fence: int, lines: Sequence[LogLine]) -> Select[int]:
    """Add at most MAX_LINES lines and delete the oldest beyond that. Row: how many were added; none without the job.

    The fence is not checked: a trainer that lost its job may still log it. The job's row is locked, so that event ids
    rise in the order of commits.
    """
    job = select(Job.id).where(Job.id == job_id).with_for_update(key_share=True).cte("job")
    data = [asdict(line) | {"fence": fence} for line in lines]
    line = (
        func.jsonb_array_elements(literal(data, JSONB))
        .table_valued(column("value", JSONB), with_ordinality="n", name="line")
        .render_derived()
    )
    kept = (
        insert(JobEvent)
        .from_select(
            ["job_id", "kind", "data"],
            select(job.c.id, literal(KIND), line.c.value).select_from(job.join(line, literal(True))).order_by(line.c.n),
            include_defaults=False,
        )
        .returning(JobEvent.id)
        .cte("kept")
    )
    own = (JobEvent.job_id == job_id, JobEvent.kind == KIND)
    newest_to_go = (
        select(JobEvent.id)
        .where(*own)
        .order_by(JobEvent.id.desc())
        .offset(MAX_LINES - len(lines))
        .limit(1)
        .scalar_subquery()
    )
    dropped = delete(JobEvent).where(*own, JobEvent.id <= newest_to_go).cte("dropped")
    return select(func.count(kept.c.id)).having(func.count(kept.c.id) > 0).add_cte(dropped)


def tail(job_id: UUID, limit: int) -> Select[JobEvent]:
    """Select the newest lines, newest first."""
    own = (JobEvent.job_id == job_id, JobEvent.kind == KIND)
    return select(JobEvent).where(*own).order_by(JobEvent.id.desc()).limit(limit)
