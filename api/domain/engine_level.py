"""The level at which an engine runs its networks: a fact of its heartbeat, with words for it."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select

from api.domain.tables import Heartbeat
from api.domain.tables.heartbeat import HEARTBEAT_TIMEOUT

LEVELS = {
    "eager": "eager, operator by operator",
    "captured": "captured as a CUDA graph",
    "compiled": "compiled",
}
"""The levels from the slowest to the fastest, in words."""


@dataclass(frozen=True)
class EngineLevel:
    """`level` is a key of LEVELS; `reason` says in one sentence why the engine is not compiled, if it is not."""

    level: str
    reason: str | None

    @property
    def words(self) -> str:
        return LEVELS[self.level]


def engine_level(facts: dict[str, Any]) -> EngineLevel | None:
    """Return the level in the facts of a heartbeat; None for a trainer and for an engine that reports none."""
    level = facts.get("level")
    return EngineLevel(level, facts.get("level_reason")) if level in LEVELS else None


def running_engines() -> Select[tuple[str, dict[str, Any]]]:
    """Select name and facts of each engine that sends heartbeats."""
    alive = Heartbeat.seen_at > func.now() - HEARTBEAT_TIMEOUT
    return select(Heartbeat.name, Heartbeat.facts).where(Heartbeat.kind == "engine", alive).order_by(Heartbeat.name)
