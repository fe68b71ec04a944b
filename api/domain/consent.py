"""The statement of consent that a concept needs."""

STATEMENT_VERSION = "2"
"""Raise it with every change of the statement: each row records the version that was agreed to."""
STATEMENT = (
    "I took these photos or may use them, and every person who can be recognized in them agrees that a model is "
    "trained on them and generates new images of them."
)
