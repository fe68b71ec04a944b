"""The concepts that the tables compare."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from opad_core.errors import OpadError
from opad_core.reference_folder import read_references


@dataclass(frozen=True)
class Concept:
    name: str
    class_noun: str
    references: list[Image.Image]


def read_concept(folder: Path) -> Concept:
    """Read photos and `class.txt`. Raises OpadError if one is missing."""
    noun = folder / "class.txt"
    if not noun.is_file():
        raise OpadError(f"{folder} has no class.txt; write what the photos show into it, for instance dog")
    return Concept(folder.name, noun.read_text().strip(), read_references(folder))
