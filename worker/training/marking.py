"""Mark the generated images that a trainer stores: previews and those of the report card."""

import io

from PIL import Image

from api.domain.provenance import Marks
from opad_core import save_marked


def png_of(image: Image.Image, marks: Marks | None, **origin: str) -> bytes:
    """Return a PNG, marked with XMP unless images are not to be marked. A trainer has no key to sign with."""
    file = io.BytesIO()
    if marks == "off":
        image.save(file, "PNG")
    else:
        save_marked(image, file, origin)
    return file.getvalue()
