"""Read the references of a concept from a folder."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from opad_core.errors import OpadError
from opad_core.reference_images import (
    CONVERT_HEIC,
    MAX_FILE_BYTES,
    MAX_REFERENCES,
    MIN_REFERENCES,
    NO_IMAGES,
    READ,
    Refused,
    decode,
    duplicates,
    formats,
    kind_of,
    reads_heic,
    same_image,
)

_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"}
_HEIC_SUFFIXES = {".heic", ".heif", ".hif"}
_OTHER_SUFFIXES = {".avif", ".gif", ".tif", ".tiff", ".bmp", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".cr3",
                   ".nef", ".arw", ".orf", ".rw2", ".raf"}  # fmt: skip
_MAGIC_BYTES = 256


@dataclass(frozen=True)
class ReferenceFiles:
    """The images of a folder, in the order of their names."""

    readable: list[Path]
    skipped: list[Path]
    """Images of kinds that are not read here."""

    def notice(self) -> str | None:
        """Return the sentence about skipped images, or None if there are none."""
        if not self.skipped:
            return None
        one = len(self.skipped) == 1
        return (
            f"skipped {', '.join(shown(path.name) for path in self.skipped)}: {'it is' if one else 'they are'} of a "
            f"kind that is not read here; {_remedy(self.skipped)}"
        )


def find_references(folder: Path, *, heic: bool | None = None) -> ReferenceFiles:
    """List the images of a folder. `heic` says whether HEIC is read; None means where its decoder is installed.

    Hidden files and files that are no images are ignored. Raises OpadError if no image is left.
    """
    heic = reads_heic() if heic is None else heic
    try:
        files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    except FileNotFoundError as error:
        raise OpadError(f"there is no folder {shown(folder)}; name the folder that holds the photos") from error
    except NotADirectoryError as error:
        raise OpadError(f"{shown(folder)} is a file; name the folder that holds it") from error
    except OSError as error:
        raise OpadError(f"the folder {shown(folder)} cannot be read: {error.strerror}") from error
    found = ReferenceFiles([], [])
    for path in files:
        suffix, kind = path.suffix.lower(), _kind_of_file(path)
        if suffix in _SUFFIXES or kind in READ or (heic and (suffix in _HEIC_SUFFIXES or kind == "HEIC")):
            found.readable.append(path)
        elif suffix in _HEIC_SUFFIXES | _OTHER_SUFFIXES or (kind and kind not in NO_IMAGES):
            found.skipped.append(path)
    if not found.readable:
        if found.skipped:
            raise OpadError(
                f"{shown(folder)} holds no image of a kind that is read here, only "
                f"{', '.join(shown(path.name) for path in found.skipped)}; {_remedy(found.skipped)}"
            )
        raise OpadError(f"{shown(folder)} holds no images; put photos into it: {formats(heic=heic)}")
    return found


def read_references(
    folder: Path,
    *,
    heic: bool | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    say: Callable[[str], None] | None = None,
) -> list[Image.Image]:
    """Read the 1-100 references in a folder as upright sRGB of at most 1024 pixels, in the order of their names.

    `say` gets the sentence about images of kinds that are not read here. Raises OpadError for another number of files,
    and one that names every file which cannot be used.
    """
    heic = reads_heic() if heic is None else heic
    found = find_references(folder, heic=heic)
    files = found.readable
    if say is not None and (notice := found.notice()):
        say(notice)
    if not MIN_REFERENCES <= len(files) <= MAX_REFERENCES:
        raise OpadError(
            f"needs {MIN_REFERENCES}-{MAX_REFERENCES} reference images; {shown(folder)} holds {len(files)}; "
            "leave some out"
        )
    images: list[Image.Image] = []
    refusals: dict[int, str] = {}
    for at, path in enumerate(files):
        try:
            images.append(_read(path, heic=heic, max_file_bytes=max_file_bytes))
        except Refused as refusal:
            refusals[at] = str(refusal)
    if not refusals:
        digests = [(image.size, hashlib.sha256(image.tobytes()).digest()) for image in images]
        refusals = {at: same_image(shown(files[first])) for at, first in duplicates(digests).items()}
    if refusals:
        raise OpadError(". ".join(f"{shown(files[at])} {words}" for at, words in refusals.items()))
    return images


def shown(path: Path | str) -> str:
    """Return a path for a message: undecodable bytes and control characters are replaced."""
    name = os.fsencode(path).decode(errors="replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def _kind_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return kind_of(file.read(_MAGIC_BYTES))
    except OSError:  # its suffix decides whether it is read, and then the error has a sentence
        return ""


def _read(path: Path, *, heic: bool, max_file_bytes: int) -> Image.Image:
    try:
        if path.stat().st_size > max_file_bytes:
            limit = max_file_bytes // 1024**2
            raise Refused("file_too_large", f"is larger than {limit} MB; scale it down or save it as JPEG")
        return decode(path.read_bytes(), heic=heic)
    except OSError as error:
        raise Refused("damaged", f"cannot be read: {error.strerror}") from error


def _remedy(skipped: list[Path]) -> str:
    heic = all(path.suffix.lower() in _HEIC_SUFFIXES for path in skipped)
    return f"HEIC: {CONVERT_HEIC}" if heic else "save it as JPEG or PNG"
