"""The result of one check."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Answer:
    check: str
    """What was checked, in a few words."""
    outcome: Outcome
    sentence: str
    """What was found. For a failure also what it means and what to do, for a skipped check why."""

    def line(self) -> str:
        return f"{self.outcome:<8}{self.check}: {self.sentence}"


def summary(answers: Sequence[Answer]) -> str:
    """Return how many checks passed, failed and were skipped."""
    counts = Counter(answer.outcome for answer in answers)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])


def answer(check: str, holds: bool, found: str, *, wrong: str) -> Answer:
    """Return a passed answer with what was found, or a failed one that also says what is wrong."""
    return Answer(check, Outcome.PASSED, found) if holds else Answer(check, Outcome.FAILED, f"{found}: {wrong}")


def skipped(check: str, reason: str) -> Answer:
    return Answer(check, Outcome.SKIPPED, reason)
