"""Commands in messages, in the form that works where the message is printed."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

_COMMAND = re.compile(r"`(opad|python)(?= )")


def runnable(message: str) -> str:
    """Return the message with commands that a shell in the current folder can run.

    In a checkout `opad up` becomes `.venv/bin/opad up`, unless the environment is active. In a container, which has no
    console command, it becomes `python -m worker.cli up`.
    """
    return _COMMAND.sub(lambda match: f"`{_program(match[1])}", message)


def _program(name: str) -> str:
    programs = Path(sys.executable).parent
    if name == "opad" and not (programs / name).exists():
        return f"{_program('python')} -m worker.cli"
    found = shutil.which(name)
    if found is not None and Path(found).parent == programs:
        return name
    program = programs / name if (programs / name).exists() else Path(sys.executable)
    here = Path(os.getcwd())
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))
