"""The folder that a command writes its results to, checked before the work that they take."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from opad_core.errors import OpadError
from opad_core.reference_folder import shown


def require_output_folder(folder: Path) -> None:
    """Raise OpadError if the folder can neither be written to nor made. Nothing is left there."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not os.path.isdir(place):
        raise OpadError(f"{shown(place)} is not a folder; name another one for the results")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise OpadError(
            f"{shown(place)} cannot be written to: {error.strerror}; name another folder for the results"
        ) from error


def refuse_to_replace(files: Iterable[Path], *, force: bool) -> None:
    """Raise OpadError for a file that exists, unless `force`, and for a folder in the place of a file."""
    for file in files:
        if file.is_dir():
            raise OpadError(f"{shown(file)} is a folder; choose another folder for --out")
        if file.exists() and not force:
            raise OpadError(
                f"{shown(file)} already exists; choose another folder for --out, or replace it with --force"
            )
