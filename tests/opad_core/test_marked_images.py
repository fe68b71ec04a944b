"""Files that say that a model generated them."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from opad_core.marked_images import AI_GENERATED, PARTLY_AI_GENERATED, save_marked

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
OWN = "{urn:opad:provenance}"


@pytest.mark.parametrize(
    ("source", "term", "words"),
    [
        (AI_GENERATED, "trainedAlgorithmicMedia", "AI-generated"),
        (PARTLY_AI_GENERATED, "compositeWithTrainedAlgorithmicMedia", "partly AI-generated"),
    ],
)
def test_a_file_names_its_source_and_origin_and_keeps_its_pixels(source, term, words):
    file = io.BytesIO()
    save_marked(IMAGE, file, {"model": 'a "base" & more', "seed": 7}, source=source)
    image = Image.open(file)
    assert image.tobytes() == IMAGE.tobytes()
    description = ElementTree.fromstring(image.info["XML:com.adobe.xmp"]).find(f"{RDF}RDF/{RDF}Description")
    assert description is not None
    source_of = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert description.get(source_of) == f"http://cv.iptc.org/newscodes/digitalsourcetype/{term}"
    assert "".join(description.itertext()) == words
    own = {name: value for name, value in description.items() if name.startswith(OWN)}
    assert own == {f"{OWN}model": 'a "base" & more', f"{OWN}seed": "7"}
