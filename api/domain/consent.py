"""The statement under which pictures may be handed in, and who made it for which concept."""

STATEMENT_VERSION = "1"
"""Raise it with every change of the words: a row says which ones were agreed to."""
STATEMENT = (
    "I took these pictures or may use them; and every person who can be recognised in them agrees that a model learns "
    "from them and draws new pictures of them."
)
