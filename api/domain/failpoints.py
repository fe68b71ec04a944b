"""Points in the code at which the fault tests kill or freeze a process, hold a thread, or raise an error in it.

They are off unless OPAD_FAILPOINTS names a folder. A file there, named like the point, lists what happens at its next
passes, one per line. `always` before an action repeats it at every pass.
"""

import os
import signal
import time
from pathlib import Path

_SIGNALS = {"kill": signal.SIGKILL, "segfault": signal.SIGSEGV, "freeze": signal.SIGSTOP}


def reach(name: str) -> None:
    """Pass the point. Do what its file says (pass, kill, segfault, freeze, wait, oom or break), or nothing.

    `wait` holds the thread until the file is deleted.
    """
    folder = os.environ.get("OPAD_FAILPOINTS")
    if folder is not None:
        _act(Path(folder, name))


def _act(file: Path) -> None:
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return
    if not lines:
        return
    act = lines[0].removeprefix("always ")
    if act == lines[0]:
        file.write_text("\n".join(lines[1:]))
    if act in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[act])
    elif act == "wait":
        while file.exists():
            time.sleep(0.02)
    elif act == "oom":
        raise MemoryError(f"failpoint {file.name}")
    elif act == "break":
        raise RuntimeError(f"failpoint {file.name}")
