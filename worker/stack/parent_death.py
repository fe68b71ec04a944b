"""Execute a program that ends with its parent: `parent_death.py PARENT SIGNAL ACCOUNT PROGRAM ARGUMENTS...`.

It runs by path under `python -I -S`, so it uses only the standard library. It replaces `preexec_fn`, which is unsafe in
a process with threads. On Linux the kernel sends SIGNAL when the thread that started the program ends. On other systems
the next launcher stops what an earlier one left. ACCOUNT is `uid:gid` or empty. Only that account can read the files
that the program makes.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def dies_with_parent(*command: str, death_signal: signal.Signals = signal.SIGKILL, account: str = "") -> list[str]:
    """Return a command line for `command` that the kernel signals when the thread that starts it ends.

    `account` is `uid:gid`, or empty for the current user.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death_signal)), account, *command]


def main() -> None:
    parent, death_signal, account, *command = sys.argv[1:]
    os.umask(0o077)
    if account:
        uid, gid = (int(number) for number in account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # after setuid, which clears it; a parent that died before this line is detected below by its id
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the process that started this one has ended")
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
