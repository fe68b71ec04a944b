"""Execute a program in a user namespace where our uid has a name: `named_user.py PROGRAM ARGUMENTS...`.

initdb looks up the name of its user, and a container may run under a uid without an entry in /etc/passwd. In the
namespace the same user appears as the first ordinary one of /etc/passwd; the files that the program makes still belong
to us. Ends with NOT_ALLOWED where the kernel refuses. It runs by path under `python -I -S`, and on Linux only.
"""

import ctypes
import os
import pwd
import sys
from pathlib import Path

NOT_ALLOWED = 77
_CLONE_NEWUSER = 0x1000_0000


def with_named_user(*command: str) -> list[str]:
    """Return a command line for `command` under a user with a name."""
    return [sys.executable, "-I", "-S", __file__, *command]


def main() -> None:
    uid, gid = os.geteuid(), os.getegid()
    name = next((entry for entry in pwd.getpwall() if entry.pw_uid != 0), None)  # initdb refuses root
    if name is None or ctypes.CDLL(None).unshare(_CLONE_NEWUSER) != 0:
        sys.exit(NOT_ALLOWED)
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{name.pw_uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{name.pw_gid} {gid} 1")
    except PermissionError:
        sys.exit(NOT_ALLOWED)
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
