"""Read the references of a concept from a folder."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from opad_core.errors import OpadError

MIN_REFERENCES, MAX_REFERENCES = 1, 100
"""One reference is one-shot personalization; DreamBooth's sets have 4-6. We recommend 3-5."""
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def read_references(folder: Path) -> list[Image.Image]:
    """Read the 1-100 references in a folder as RGB, in the order of their names.

    Raises OpadError for a file that cannot be read, and for another number of files.
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
