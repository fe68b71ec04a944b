"""Check in advance whether an engine can compile its networks on this machine."""

import os
import shutil
import sysconfig
import tempfile
from pathlib import Path

FREE_BYTES = 1_000_000_000
"""Free space that a cache of compiled networks needs, with room for the intermediate files."""


def compile_obstacle(cache: Path, *, device: str) -> str | None:
    """Return why an engine cannot compile on a device of this type, with the remedy; None if it can.

    `cache` is the folder of compiled networks; it is created if it is missing.
    """
    if device == "cuda" and (obstacle := _missing_tool()):
        return obstacle
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        return f"{cache} cannot be written ({error.strerror}); give this user the folder, or set OPAD_HOME to another"
    if (free := shutil.disk_usage(cache).free) < FREE_BYTES:
        return f"{cache} has {free / 1e9:.1f} GB free and compiling needs {FREE_BYTES / 1e9:.1f}; make room there"
    return None


def c_compiler() -> str | None:
    """Return the path of the C compiler that Triton takes: `CC`, else gcc, else clang. It never takes cc."""
    if cc := os.environ.get("CC"):
        return shutil.which(cc)
    return shutil.which("gcc") or shutil.which("clang")


def _missing_tool() -> str | None:
    if (cc := os.environ.get("CC")) and shutil.which(cc) is None:
        return f"CC is {cc!r}, which is no program; correct it, or remove it for gcc or clang"
    if c_compiler() is None:
        return "no C compiler found (CC, gcc or clang); install gcc"
    header = Path(sysconfig.get_path("include", "posix_prefix")) / "Python.h"  # Triton's modules are for Python
    if not header.is_file():
        return f"{header} is missing; install Python's headers (Debian: python3-dev)"
    return None
