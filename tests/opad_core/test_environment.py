import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "opad_core"
COMMAND_LINES = {"__main__.py", "nano/build/__main__.py"}
STARTS_PYTHON = {"bases/fetch/no_network.py"}
"""Tells a child process where Python's libraries are, as this process was told."""
READING = re.compile(r"os\.environ(?!\[\"\w+\"\] = )|getenv|from os import environ")
"""Setting a variable is allowed: PyTorch takes the folder of its compilers from no other place."""


def test_only_the_command_lines_read_the_environment():
    readers = {str(f.relative_to(PACKAGE)) for f in PACKAGE.rglob("*.py") if READING.search(f.read_text())}
    assert readers == COMMAND_LINES | STARTS_PYTHON
