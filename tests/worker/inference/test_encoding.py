import io
from uuid import UUID
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from api.domain.provenance import Provenance
from worker.inference.encoding import encode

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
CONCEPT = UUID("0198c0de-7e57-7000-8000-000000000001")
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
SOURCE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def described(image_format: str, provenance: Provenance) -> tuple[Image.Image, ElementTree.Element]:
    """Return the image and the XMP description in its file."""
    image = Image.open(io.BytesIO(encode(PIXELS, image_format, provenance)))
    image.load()
    packet = image.info["XML:com.adobe.xmp" if image_format == "png" else "xmp"]
    description = ElementTree.fromstring(packet).find(f"{RDF}RDF/{RDF}Description")
    assert description is not None
    return image, description


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_every_file_names_its_origin(image_format):
    image, description = described(image_format, Provenance("nano", CONCEPT, "ab" * 32, 7))
    assert image.format == image_format.upper()
    assert description.get(SOURCE) == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert "".join(description.itertext()) == "AI-generated"
    own = {name.rpartition("}")[2]: value for name, value in description.items() if "opad" in name}
    assert own == {"model": "nano", "concept": str(CONCEPT), "bundle": "ab" * 32, "seed": "7", "decoder": "full"}


def test_an_image_of_the_base_names_no_concept():
    _, description = described("png", Provenance('a "base" & more', None, None, 0))
    own = {name.rpartition("}")[2]: value for name, value in description.items() if "opad" in name}
    assert own == {"model": 'a "base" & more', "seed": "0", "decoder": "full"}


def test_a_png_keeps_the_pixels():
    image, _ = described("png", Provenance("nano", None, None, 0))
    assert np.array_equal(np.asarray(image), PIXELS)
