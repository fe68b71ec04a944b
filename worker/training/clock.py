"""The clock of one training: it times the stages and predicts the time left."""

from collections.abc import Mapping
from typing import Any

from api.domain.training_times import EtaSource, StageTime, TrainingTime, timing, undone_iterations

WARM_UP = 5
"""First iterations of a stage that its pace leaves out, with their reports: they select kernels or generate samples."""
_PAST_WEIGHT = 20
"""Iterations of this training that count as much as the past ones."""


class TrainingClock:
    """Times the stages of a training. `expected` is the time that such a training takes, None if it is unknown."""

    def __init__(
        self, plan: Mapping[str, int], expected: TrainingTime | None, *, device: str, started_at: float
    ) -> None:
        self._plan, self._expected, self._device = plan, expected, device
        self._reports: dict[str, list[tuple[int, float]]] = {}
        """The iterations and seconds of every report, by stage."""
        self._now = started_at
        self._step = 0
        self._resumed = False

    def iterations_ended(self, stage: str, step: int, *, count: int = 1, at: float) -> None:
        """Count the newest iterations of a stage, which took the time since the last call."""
        self._resumed = self._resumed or (not self._reports and step != count)
        self._reports.setdefault(stage, []).append((count, at - self._now))
        self._now, self._step = at, step

    def training_ended(self) -> None:
        """Plan no more iterations: the concept is learned."""
        self._plan = {}

    def left(self) -> tuple[float | None, EtaSource | None]:
        """Return the seconds until the job ends and their source, or twice None if they are unknown."""
        measured = [stage for stage in self._reports if self._pace(stage) is not None]
        if self._expected is None and not measured:
            return None, None
        paces = {stage: self._blended_pace(stage) for stage in measured}
        known = self._expected.stages if self._expected else {}
        newest = measured[-1] if measured else None
        speed = paces[newest] / known[newest].iteration_seconds if newest is not None and newest in known else 1.0
        seconds = 0.0
        for stage, undone in undone_iterations(self._plan, self._step).items():
            if stage in known:
                seconds += undone * paces.get(stage, known[stage].iteration_seconds * speed)
                if undone and stage not in self._reports:
                    seconds += known[stage].start_seconds * speed
            elif undone and newest is None:
                return None, None
            elif newest is not None:
                seconds += undone * paces.get(stage, paces[newest])
        if self._expected is None:
            return seconds, "measured"
        return seconds + self._expected.finish_seconds * speed, "measured" if measured else self._expected.source

    def timing(self, *, at: float) -> dict[str, Any] | None:
        """Return the times for later predictions; None if a part was done by an earlier attempt, or was too short."""
        stages = {}
        for stage, reports in self._reports.items():
            pace = self._pace(stage)
            if pace is not None:
                count, seconds = _sums(reports)
                stages[stage] = StageTime(max(0.0, seconds - count * pace), pace)
        if self._resumed or not stages:
            return None
        return timing(TrainingTime(stages, at - self._now, "measured"), self._device)

    def _steady(self, stage: str) -> tuple[int, float]:
        """Return the number of the stage's iterations after the warm-up, and their seconds."""
        reports = self._reports.get(stage, [])
        skipped, warm = 0, 0
        while skipped < len(reports) and warm < WARM_UP:
            warm += reports[skipped][0]
            skipped += 1
        return _sums(reports[skipped:])

    def _pace(self, stage: str) -> float | None:
        """Return the mean seconds of the stage's iterations after the warm-up."""
        count, seconds = self._steady(stage)
        return seconds / count if count else None

    def _blended_pace(self, stage: str) -> float:
        """Weigh a measured pace against the past. Documented times are of another machine and have no weight."""
        measured = self._pace(stage)
        assert measured is not None
        if self._expected is None or self._expected.source != "history" or stage not in self._expected.stages:
            return measured
        past, (count, _) = self._expected.stages[stage].iteration_seconds, self._steady(stage)
        return (_PAST_WEIGHT * past + count * measured) / (_PAST_WEIGHT + count)


def _sums(reports: list[tuple[int, float]]) -> tuple[int, float]:
    return sum(count for count, _ in reports), sum(seconds for _, seconds in reports)
