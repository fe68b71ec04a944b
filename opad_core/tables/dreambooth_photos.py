"""Tell whether photos are those of the published DreamBooth dataset, as far as that is known here.

Only copies of eight subjects were at hand, scaled to 512 pixels, and not the published files. So photos are compared
by fingerprints that scaling keeps, and not by the hashes of files. `dreambooth_photos.json` has the fingerprints.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from opad_core.tables.concepts import Concept

KNOWN = Path(__file__).with_suffix(".json")
SAME = 6
"""The most bits in which two fingerprints of one photo differ. Measured: at most 2 after scaling by 0.5 to 2.7 and JPEG
at quality 80, and at least 15 between two of the 39 photos."""
_SIDE = 8


def fingerprint(image: Image.Image) -> int:
    """Return 64 bits: whether each of 8 x 9 gray tiles of the image is darker than the one to its right."""
    tiles = np.asarray(image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX))
    return int("".join(map(str, (tiles[:, 1:] > tiles[:, :-1]).astype(int).ravel())), 2)


def compared(concepts: Iterable[Concept]) -> str:
    """Say which subjects of DreamBooth have the published photos."""
    published = json.loads(KNOWN.read_text())["photos"]
    known, differing, unknown = 0, [], []
    for concept in concepts:
        if concept.name not in published:
            unknown.append(concept.name)
            continue
        known += 1
        found = [fingerprint(photo) for photo in concept.references]
        bits = {name: int(text, 16) for name, text in published[concept.name].items()}
        if missing := [name for name, own in bits.items() if min((own ^ x).bit_count() for x in found) > SAME]:
            differing.append(f"{concept.name} differs in {', '.join(missing)}")
    parts = []
    if known:
        parts.append(f"{known - len(differing)} of {known} subjects look as published")
    if unknown:
        parts.append(f"{len(unknown)} cannot be verified ({', '.join(unknown)})")
    return f"photos: {'; '.join([*parts, *differing])}"
