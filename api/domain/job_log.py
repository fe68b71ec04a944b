"""The end of a trainer's log, among the job's events: it outlives the trainer, and goes with the events or the job."""

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
KEPT = 200
"""Lines of a job, the newest: a trainer that warns at each step must not fill the table."""
LONGEST = 2000
"""Characters of a line."""

_OF_THE_CLAIM = ("job_id", "fence")


@dataclass(frozen=True)
class LogLine:
    at: str
    """ISO 8601."""
    level: str
    """As the trainer gave it; `output` for what was written past its log: a crash's trace, a driver's complaint."""
    text: str

    @classmethod
    def read(cls, written: str) -> Self:
        """A line of standard error without its end; secrets are hidden, and what PostgreSQL cannot hold is left out."""
        try:
            entry = json.loads(written)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or "event" not in entry:
            return cls(datetime.now(UTC).isoformat(), "output", _kept(written))
        at, level = _time(entry.pop("timestamp", None)), _kept(str(entry.pop("level", "info")))
        return cls(at, level, _kept(_sentence(entry)))


def _time(written: Any) -> str:
    """Now, unless it is a time as our logs write it: another program's JSON may call anything so."""
    try:
        return datetime.fromisoformat(written).isoformat()
    except (TypeError, ValueError):
        return datetime.now(UTC).isoformat()


def _sentence(entry: Mapping[str, Any]) -> str:
    """The event, then its values; a trace on lines of its own."""
    values = [f"{name}={value}" for name, value in entry.items() if name not in ("event", "exception", *_OF_THE_CLAIM)]
    trace = [f"\n{entry['exception']}"] if "exception" in entry else []
    return " ".join([str(entry["event"]), *values]) + "".join(trace)


def _kept(text: str) -> str:
    shown = str(redacted(text)).replace("\0", "").encode(errors="replace").decode()
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def append(job_id: UUID, fence: int, lines: Sequence[LogLine]) -> Select[int]:
    """Keep these lines, at most KEPT of them, and drop the oldest beyond KEPT. Row: how many; none without the job.

    Not held to the fence, for it changes nothing: a trainer that lost its job may still say so. The job's row is
    locked, so that its events' numbers rise in the order of their commits.
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
        .offset(KEPT - len(lines))
        .limit(1)
        .scalar_subquery()
    )
    dropped = delete(JobEvent).where(*own, JobEvent.id <= newest_to_go).cte("dropped")
    return select(func.count(kept.c.id)).having(func.count(kept.c.id) > 0).add_cte(dropped)


def tail(job_id: UUID, limit: int) -> Select[JobEvent]:
    """The newest lines, newest first."""
    own = (JobEvent.job_id == job_id, JobEvent.kind == KIND)
    return select(JobEvent).where(*own).order_by(JobEvent.id.desc()).limit(limit)
