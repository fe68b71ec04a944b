"""How long a training takes: from past trainings of the same method, preset, base and device, or as documented."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from sqlalchemy import Select, select

from api.domain.tables import Attempt, Concept, Job

EtaSource = Literal["measured", "history", "estimate"]
"""Where a time comes from: the job's own iterations, past trainings here, or the base's documented times."""

_READ = 50
_TYPICAL_OF = 5
"""Times are medians of this many past trainings, so that one on a busy machine does not count."""


@dataclass(frozen=True)
class StageTime:
    start_seconds: float
    """What the stage takes beside its iterations: loading, caches, samples, slow first iterations."""
    iteration_seconds: float


@dataclass(frozen=True)
class TrainingTime:
    stages: Mapping[str, StageTime]
    finish_seconds: float
    """From the last iteration to the stored bundle: report card, exports, upload."""
    source: EtaSource

    def seconds(self, plan: Mapping[str, int]) -> float | None:
        """Return how long a training with these iterations of each stage takes; None if a stage is unknown."""
        if any(count and stage not in self.stages for stage, count in plan.items()):
            return None
        return self.finish_seconds + sum(
            self.stages[stage].start_seconds + count * self.stages[stage].iteration_seconds
            for stage, count in plan.items()
            if count
        )


def stage_iterations(method: str, values: Mapping[str, Any]) -> dict[str, int]:
    """Return the iterations of each stage, in their order, from the settings of a training."""
    if method != "opad":
        return {"training": values["iterations"]}
    distillation = values["iterations"] * (2 if values["teacher_first"] else 1)
    return {"distillation": distillation, "collaborative": values["collaborative_iterations"]}


def settings_of(
    presets: Mapping[str, Any] | None, methods: Mapping[str, Any] | None, *, method: str, preset: str
) -> Mapping[str, Any] | None:
    """Return the settings of a training from those that a base's engine announced; None if it has not."""
    return (presets or {}).get(preset) if method == "opad" else (methods or {}).get(method)


def undone_iterations(plan: Mapping[str, int], step: int) -> dict[str, int]:
    """Return the iterations of each stage that are left after `step` of all."""
    undone = {}
    for stage, count in plan.items():
        undone[stage] = max(0, count - max(0, step))
        step -= count
    return undone


def stage_after(plan: Mapping[str, int], step: int) -> str | None:
    """Return the stage of the iteration after `step` of all; None if none is left."""
    return next((stage for stage, undone in undone_iterations(plan, step).items() if undone), None)


def timing(time: TrainingTime, device: str) -> dict[str, Any]:
    """Return what an attempt keeps of its times. `device` is "cpu" or "cuda"."""
    stages = {name: asdict(stage) for name, stage in time.stages.items()}
    return {"device": device, "stages": stages, "finish_seconds": time.finish_seconds}


def past_timings(*, base: str, method: str, preset: str) -> Select[str, dict[str, Any]]:
    """Select the worker and the times of past trainings, newest first."""
    return (
        select(Attempt.worker, Attempt.timing)
        .join(Job, Job.id == Attempt.job_id)
        .join(Concept, Concept.id == Job.concept_id)
        .where(Attempt.timing.is_not(None), Job.method == method, Job.preset == preset, Concept.base == base)
        .order_by(Attempt.ended_at.desc())
        .limit(_READ)
    )


def typical_time(
    past: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    base: str,
    method: str,
    preset: str,
    device: str | None,
    worker: str | None = None,
) -> TrainingTime | None:
    """Return the typical time of a training, from this worker's own past if it has one, else from all of `past`.

    `device` None takes any device. Without a past training the documented time is returned, or None if there is none.
    """
    documented = _DOCUMENTED.get((base, method, preset, device or "cpu"))
    fitting = [(who, times) for who, times in past if device is None or times["device"] == device]
    chosen = ([times for who, times in fitting if who == worker] or [times for _, times in fitting])[:_TYPICAL_OF]
    if not chosen:
        return documented
    names = {name for times in chosen for name in times["stages"]}
    stages = {name: _typical_stage([t["stages"][name] for t in chosen if name in t["stages"]]) for name in names}
    known = documented.stages if documented else {}
    return TrainingTime({**known, **stages}, median(times["finish_seconds"] for times in chosen), "history")


def _typical_stage(stages: Sequence[Mapping[str, float]]) -> StageTime:
    return StageTime(
        median(stage["start_seconds"] for stage in stages), median(stage["iteration_seconds"] for stage in stages)
    )


_DOCUMENTED = {
    # Two CPU cores: 430 iterations of OPAD took 404 s on one machine and 200 s on another. This is the slower one.
    ("nano", "opad", "default", "cpu"): TrainingTime(
        {"distillation": StageTime(15, 0.85), "collaborative": StageTime(7, 0.9)}, 10, "estimate"
    ),
    ("nano", "opad", "paper", "cpu"): TrainingTime(
        {"distillation": StageTime(9, 0.9), "collaborative": StageTime(3, 0.85)}, 10, "estimate"
    ),
    # By its share of `default`'s CPU time: 0.49 and 0.56 of an iteration in two runs, 0.73 until the first one ends.
    ("nano", "custom_diffusion", "default", "cpu"): TrainingTime({"training": StageTime(11, 0.45)}, 10, "estimate"),
    # Measured on an NVIDIA H200; `default` by its share of the operations (docs/sd-turbo.md).
    ("sd-turbo", "opad", "default", "cuda"): TrainingTime(
        {"distillation": StageTime(57, 1.04), "collaborative": StageTime(0, 1.04)}, 0, "estimate"
    ),
    ("sd-turbo", "opad", "paper", "cuda"): TrainingTime(
        {"distillation": StageTime(57, 1.11), "collaborative": StageTime(0, 1.11)}, 0, "estimate"
    ),
}
"""By base, method, preset and device."""
