"""The photos of a thing, read from a folder."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from opad_core.errors import OpadError

MIN_REFERENCES, MAX_REFERENCES = 1, 100
"""One photo is one-shot personalization; DreamBooth's sets have 4-6 photos. We recommend 3-5."""
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def read_references(folder: Path) -> list[Image.Image]:
    """Read the 1-100 photos of a folder as RGB, in the order of their names.

    Raises OpadError that names the file at fault, or says how many photos there are.
    """
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    if not MIN_REFERENCES <= len(files) <= MAX_REFERENCES:
        raise OpadError(
            f"needs {MIN_REFERENCES}-{MAX_REFERENCES} reference images (JPEG, PNG or WebP); {folder} holds {len(files)}"
        )
    images = []
    for file in files:
        try:
            with Image.open(file) as image:
                images.append(image.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise OpadError(f"{file} cannot be read as an image: {error}") from error
    return images
