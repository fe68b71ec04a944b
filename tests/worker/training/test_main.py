"""The trainer's program before it trains."""

import subprocess
import sys

PROGRAM = """
import contextlib, gc, sys
from worker.training.__main__ import main
sys.argv = ["", "--help"]
with contextlib.suppress(SystemExit):
    main()
print(gc.isenabled(), gc.get_stats()[-1]["collections"])
"""


def test_the_imports_are_not_searched_for_garbage_and_the_training_is():
    """A full collection passes over every object of the imports. There were seven."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert "python -m worker.training [-h] --job JOB --fence FENCE" in done.stdout
    assert done.stdout.splitlines()[-1] == "True 0"
