"""Photos of objects, with which a base is checked."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.pixels import reference_pixels
from opad_core.reference_folder import read_references

EXAMPLES = Path(__file__).parents[2] / "examples"
"""The example concepts of a checkout; an installed package has none."""
NO_PHOTOS = "there are no photos here; name a folder of them with --images"
"""Why a check that needs photos is skipped."""


@dataclass(frozen=True)
class Photos:
    """Photos of one object."""

    name: str
    """Name of their folder."""
    noun: str | None
    """Class noun, from `class.txt`; None if the folder has none."""
    images: list[Image.Image]

    def pixels(self, base: Base) -> Tensor:
        """Return the photos as squares on the base's device, [k, 3, r, r] in [-1, 1]."""
        return reference_pixels(self.images, base.manifest.resolution, keep_aspect=True).to(base.device)


def read_photos(folder: Path) -> list[Photos]:
    """Read a folder of photos of one object, or a folder with such a folder for each object.

    Raises OpadError if there is no photo.
    """
    folders = [child for child in sorted(folder.iterdir()) if child.is_dir()] if folder.is_dir() else []
    return [_read(child) for child in folders or [folder]]


def example_photos() -> list[Photos]:
    """Return the photos in `examples` of a checkout, or none in an installed package."""
    return read_photos(EXAMPLES) if (EXAMPLES / "README.md").is_file() else []


def all_pixels(base: Base, photos: list[Photos]) -> Tensor:
    """Return the photos of all objects, [k, 3, r, r] in [-1, 1]."""
    return torch.cat([photo.pixels(base) for photo in photos])


def _read(folder: Path) -> Photos:
    noun = folder / "class.txt"
    try:
        return Photos(folder.name, noun.read_text().strip() if noun.is_file() else None, read_references(folder))
    except UnicodeDecodeError as error:
        raise OpadError(f"{noun} is not text; write the class noun into it, or remove it") from error
