"""Checks of a base's weights whose answers are known before they arrive."""

from opad_core.known_answers.answer import Answer, Outcome, summary
from opad_core.known_answers.checks import check_weights, known_answers
from opad_core.known_answers.photos import Photos, example_photos, read_photos

__all__ = [
    "Answer",
    "Outcome",
    "Photos",
    "check_weights",
    "example_photos",
    "known_answers",
    "read_photos",
    "summary",
]
