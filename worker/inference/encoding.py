"""Encode pixels as image files, in threads: the encoders release the interpreter lock while the model runs.

The XMP metadata says that the image was generated: IPTC's `DigitalSourceType` for agencies and search engines, a
description for people, and our own fields for its origin.
"""

import io
from typing import Literal
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from api.domain.provenance import GENERATED, Provenance
from worker.inference.png import write_png

Format = Literal["png", "jpeg", "webp"]

MEDIA_TYPES: dict[Format, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

# a photo of 512 px on one core: JPEG 1.1 ms, PNG 3.8 ms, WebP 11 ms (`bench/encode.py`)
_OPTIONS: dict[Format, dict[str, int]] = {
    "jpeg": {"quality": 92},
    "webp": {"quality": 90, "method": 0},
}


def encode(pixels: np.ndarray, image_format: Format, provenance: Provenance | None) -> bytes:
    """Encode `pixels`, [r, r, 3] uint8, and return the file. Equal inputs give equal files.

    None as `provenance` writes no metadata.
    """
    packet, file = None if provenance is None else _xmp(provenance), io.BytesIO()
    if image_format == "png":
        return write_png(pixels, xmp=packet)
    metadata = {"xmp": packet.encode()} if packet else {}
    Image.fromarray(pixels).save(file, image_format, **metadata, **_OPTIONS[image_format])
    return file.getvalue()


def _xmp(provenance: Provenance) -> str:
    own = " ".join(f"opad:{name}={quoteattr(str(value))}" for name, value in provenance.fields().items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:opad="urn:opad:provenance"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmp:CreatorTool="OPAD"'
        f' Iptc4xmpExt:DigitalSourceType="{GENERATED}"'
        f" {own}>"
        '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">AI-generated</rdf:li></rdf:Alt></dc:description>'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
