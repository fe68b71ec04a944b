"""The bar and the table that show where a job's wall time went."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.domain.wall_time import PARTS
from api.job_times import WallTimePart

_GROUPS = (
    ("setup", ("start", "load", "references", "compile", "caches", "samples")),
    ("learning", ("distillation", "collaborative", "training")),
    ("watching", ("previews", "evaluations", "checkpoints")),
    ("result", ("report_card", "exports", "store")),
    ("lost", ("unreported",)),
)
"""Parts of a group have one color in several shades."""


@dataclass(frozen=True)
class Row:
    name: str
    meaning: str
    seconds: float
    share: float
    """Share of the sum of all parts, in [0, 1]."""
    offset: float
    """Sum of the shares before this one."""
    group: str
    shade: int
    """Place in the group, from 1."""


def wall_time_rows(parts: Sequence[WallTimePart]) -> list[Row]:
    """Return a row for each part, in their order."""
    places = {part: (group, shade) for group, names in _GROUPS for shade, part in enumerate(names, 1)}
    total = sum(part.seconds for part in parts)
    rows, before = [], 0.0
    for part in parts:
        group, shade = places.get(part.part, ("learning", 1))
        share = part.seconds / total if total else 0.0
        name = part.part.replace("_", " ").capitalize()
        rows.append(Row(name, PARTS.get(part.part, ""), part.seconds, share, before, group, shade))
        before += share
    return rows
