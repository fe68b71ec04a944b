"""Checks of a base's weights whose answers are known before they arrive."""

from opad_core.known_answers.answer import Answer, Outcome, summary
from opad_core.known_answers.checks import known_answers, learning_answer
from opad_core.known_answers.photos import Photos, example_photos, read_photos

__all__ = [
    "Answer",
    "Outcome",
    "Photos",
    "example_photos",
    "known_answers",
    "learning_answer",
    "read_photos",
    "summary",
]
