"""Where the wall time of a job goes: the parts of its attempts, in seconds.

A trainer measures the parts of its attempt and sends them with each heartbeat. It is in exactly one part at any moment,
so the parts of an attempt sum to its wall time.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Float, case, func, select

from api.domain.tables import Attempt, Job

PARTS = {
    "start": "from the claim until the program runs: starting the process, importing its libraries",
    "load": "reading the base's networks and moving them to the device",
    "references": "reading the photos from the object store",
    "compile": "compiling networks and recording CUDA graphs, with the iterations that try them",
    "caches": "preparing the training: augmented photos, their latents and features",
    "samples": "generating the images that the collaborative stage, or Custom Diffusion, learns from beside the photos",
    "distillation": "iterations of the distillation stage",
    "collaborative": "iterations of the collaborative stage",
    "training": "iterations of Custom Diffusion, which has one stage",
    "previews": "generating and storing previews",
    "evaluations": "evaluations during the training",
    "checkpoints": "copies of the state, waiting for uploads, and reading the state when a training resumes",
    "report_card": "generating and scoring the report card's images",
    "exports": "converting the bundle to the formats of other tools, as far as that takes longer than the report card",
    "store": "uploading the result and reading it back",
    "unreported": "after the last heartbeat of an attempt: its last transaction, or the time until its end was noticed",
}
"""The names of the parts and what each is, in the order in which a training enters them."""

UNREPORTED = "unreported"

_ATTEMPTED = func.extract("epoch", Attempt.ended_at - Attempt.started_at).cast(Float)
ATTEMPTS = (
    select(
        func.jsonb_agg(
            func.jsonb_build_object(
                "parts", Attempt.wall_time, "seconds", case((Attempt.ended_at.is_not(None), _ATTEMPTED))
            )
        )
    )
    .where(Attempt.job_id == Job.id)
    .correlate(Job)
    .scalar_subquery()
)
"""The parts of each attempt of a job, and its seconds if it has ended. Null before the first attempt."""


def wall_time(attempts: Iterable[Mapping[str, Any]] | None) -> dict[str, float]:
    """Sum the parts of all attempts, in the order of PARTS. Empty if no attempt has reported any.

    The parts of attempts that have ended sum to the time between their start and their end. A running attempt counts
    up to its last heartbeat.
    """
    attempts = list(attempts or ())
    if all(attempt["parts"] is None for attempt in attempts):
        return {}
    total = dict.fromkeys(PARTS, 0.0)
    for attempt in attempts:
        parts = attempt["parts"] or {}
        for part, seconds in parts.items():
            total[part] = total.get(part, 0.0) + seconds
        if attempt["seconds"] is not None:
            total[UNREPORTED] += max(0.0, attempt["seconds"] - sum(parts.values()))
    return {part: seconds for part, seconds in total.items() if seconds >= 0.001}
