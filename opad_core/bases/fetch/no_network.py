"""Run Python code in a process of its own that cannot reach a network.

On Linux the process moves into a network namespace without interfaces, by itself where the kernel allows it to any
user, else inside bubblewrap. It proves to itself that the namespace is another one before it runs the code. Sockets in
the file system are no network: the namespace does not hide them.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

NO_NAMESPACE = 90
"""The exit status of a process that could not leave the network; it has not run the code."""
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_NAMESPACE = "/proc/self/ns/net"
_BUBBLEWRAP = ("--unshare-net", "--die-with-parent", "--new-session", "--ro-bind", "/", "/", "--dev", "/dev", "--")
# as the api starts its decoder: imports come from where this process has them
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from opad_core.bases.fetch.no_network import leave_network; leave_network(int(sys.argv[2])); del sys.argv[1:3]; "
)
_ENVIRONMENT = ("PYTHONHOME", "LD_LIBRARY_PATH")


def command(code: str, *arguments: str) -> list[str] | None:
    """Return the command that runs Python code without a network, with the arguments in `sys.argv[1:]`.

    None if neither the kernel nor bubblewrap offers a network namespace here.
    """
    prefix = _prefix()
    return None if prefix is None else [*prefix, *_python(code, *arguments)]


def environment() -> dict[str, str]:
    """Return the environment for such a process: none of this one's secrets, and one thread for PyTorch."""
    return {"OMP_NUM_THREADS": "1", **{name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}}


def leave_network(outside: int) -> None:
    """Move this process out of the network namespace with the inode `outside`, and end it with its parent.

    The process must have a single thread. It exits with NO_NAMESPACE if it cannot leave. It can gain no rights
    afterwards, and in a user namespace it has lost those of root.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if _inode() == outside and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWNET)  # root may do this where user namespaces are forbidden
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if _inode() == outside:
        sys.exit(NO_NAMESPACE)


@cache
def _prefix() -> tuple[str, ...] | None:
    """Return what to write before a command of Python: nothing, bubblewrap, or None if neither isolates."""
    if sys.platform != "linux":
        return None
    candidates: list[Sequence[str]] = [()]
    if bubblewrap := shutil.which("bwrap"):
        candidates.append((bubblewrap, *_BUBBLEWRAP))
    for prefix in candidates:
        found = subprocess.run([*prefix, *_python("")], env=environment(), capture_output=True, check=False)
        if found.returncode == 0:
            return tuple(prefix)
    return None


def _python(code: str, *arguments: str) -> list[str]:
    ours = str(Path(__file__).resolve().parents[3])  # which an editable installation finds only with its hook
    paths = list(dict.fromkeys([ours, *(os.path.abspath(path) for path in sys.path)]))
    start = [sys.executable, "-s", "-S", "-P", "-B", "-c", _START + code]
    return [*start, json.dumps(paths), str(_inode()), *arguments]


def _inode() -> int:
    return os.stat(_NAMESPACE).st_ino
