"""Read the marks of a local image, in the process and with the limits that uploads have."""

import asyncio
from pathlib import Path
from typing import Any

from api.decoder import CannotStart, marks_read
from opad_core import OpadError, reads_heic
from worker.stack.home import LocalError


def verify_file(path: Path, *, trusted: str, heic: bool) -> dict[str, Any]:
    """Return what `api.read_marks` finds in a file. `trusted` are certificates as PEM. Raises LocalError."""
    try:
        with path.open("rb") as file:
            found = asyncio.run(marks_read(file, trusted=trusted, heic=reads_heic(heic)))
    except OSError as error:
        raise LocalError(f"{error.filename} cannot be read: {error.strerror}") from error
    except CannotStart as error:
        raise LocalError(f"the process that reads images does not start: {error}") from error
    if isinstance(found, OpadError):
        raise LocalError(f"{path} {found}")
    return found
