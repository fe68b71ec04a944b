"""Image files that say that a model generated them, in XMP metadata.

The packet has IPTC's `DigitalSourceType` for agencies and search engines, a description for people, and our own fields
for the origin. It never names a prompt or an owner.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import IO
from xml.sax.saxutils import quoteattr

from PIL import Image
from PIL.PngImagePlugin import PngInfo

AI_GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's digital source type of an image that a model generated."""
PARTLY_AI_GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's digital source type of an image with generated parts, such as a sheet that also shows photos."""

_WORDS = {AI_GENERATED: "AI-generated", PARTLY_AI_GENERATED: "partly AI-generated"}


def xmp_packet(origin: Mapping[str, str | int], source: str = AI_GENERATED) -> str:
    """Return the XMP packet. `origin` is what is known of model, concept, bundle, seed and decoder."""
    own = " ".join(f"opad:{name}={quoteattr(str(value))}" for name, value in origin.items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:opad="urn:opad:provenance"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmp:CreatorTool="OPAD"'
        f' Iptc4xmpExt:DigitalSourceType="{source}"'
        f" {own}>"
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{_WORDS[source]}</rdf:li></rdf:Alt></dc:description>'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def save_marked(
    image: Image.Image, file: Path | IO[bytes], origin: Mapping[str, str | int], *, source: str = AI_GENERATED
) -> None:
    """Write a PNG with the XMP packet."""
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp_packet(origin, source))
    image.save(file, "PNG", pnginfo=text)
