"""What an image says of its origin, and the names under which its metadata says it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

Marks = Literal["signed", "xmp", "off"]
"""How images are marked: with Content Credentials and XMP, with XMP alone, or not at all."""
MARKS_IN_WORDS: dict[str, str] = {
    "signed": "images are signed",
    "xmp": "images are marked, not signed",
    "off": "images are not marked",
}
SIGNED_FROM_PX = 512
"""Images of this size and above are signed by default. On one of 64 px the credentials double the file and cost the
engine about a tenth of its capacity (`bench/marks.py`)."""

ORIGIN_ASSERTION = "opad.origin"
"""The label of our assertion in the Content Credentials."""


@dataclass(frozen=True)
class Provenance:
    """The origin of an image. It names no prompt and no owner: images are shared, and both may be private."""

    model: str
    """Name of the base."""
    concept_id: UUID | None
    """None for an image of the base without a concept."""
    bundle_sha256: str | None
    seed: int
    decoder: str = "full"

    def fields(self) -> dict[str, str | int]:
        """Return what is known, by the names in XMP and in the Content Credentials."""
        known: dict[str, str | int | None] = {
            "model": self.model,
            "concept": None if self.concept_id is None else str(self.concept_id),
            "bundle": self.bundle_sha256,
            "seed": self.seed,
            "decoder": self.decoder,
        }
        return {name: value for name, value in known.items() if value is not None}


def says_generated(data: bytes) -> bool:
    """Return whether a file's XMP or Content Credentials, checked or not, say that a model made the image or a part."""
    return re.search(rb"digitalsourcetype/(composite[wW]ith)?[tT]rainedAlgorithmicMedia", data) is not None


def summary(found: Mapping[str, Any], concept: str | None = None, *, certificate_read: bool = True) -> str:
    """Say in words what `api.read_marks` found. `concept` is the name of the concept, if it is the reader's own."""
    signer = "this installation" if found["ours"] else f'"{found["signer"]}", which this installation does not know'
    match found["credentials"]:
        case "valid" if found["generated"]:
            made = "Partly generated" if found["partly"] else "Generated"
            said = f"{made} by a model. Signed by {signer}, and not altered since."
        case "valid":
            said = f"Signed by {signer}, and not altered since. It does not say that a model generated it."
        case "altered":
            said = f'Signed as "{found["signer"]}" and altered since: its credentials prove nothing about this image.'
        case "invalid":
            said = "Its Content Credentials are not valid and prove nothing."
        case _:
            said = "Not signed."
    if found["credentials"] == "valid" and not certificate_read:
        said += " This installation's own certificate could not be read, so it does not recognize its signatures."
    if found["xmp"] and found["credentials"] != "valid":
        said += f" Its metadata, which anybody can write, says that it is {'partly ' * found['partly']}AI-generated."
    elif found["credentials"] == "none":
        said += " No mark was found, which proves nothing: marks can be removed."
    return said + (f" It names your concept {concept}." if concept else "")


def default_marks(resolution: int) -> Marks:
    return "signed" if resolution >= SIGNED_FROM_PX else "xmp"
