import json

import numpy as np
import pytest
from PIL import Image

from opad_core.tables.concepts import Concept
from opad_core.tables.dreambooth_photos import KNOWN, compared, fingerprint
from opad_core.tables.protocols import SUBJECTS


def drawn(text):
    """Draw an image with this fingerprint: in each of 8 rows, the next of 9 gray tiles is lighter or darker."""
    bits = np.array([int(bit) for bit in f"{int(text, 16):064b}"]).reshape(8, 8)
    levels = np.cumsum(np.concatenate([np.full((8, 1), 128), np.where(bits, 10, -10)], axis=1), axis=1)
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def published(name):
    return {file: drawn(text) for file, text in json.loads(KNOWN.read_text())["photos"][name].items()}


def concept(name, photos):
    return Concept(name, SUBJECTS[name], list(photos))


def test_a_fingerprint_says_where_an_image_gets_lighter_to_the_right():
    right = Image.fromarray(np.tile(np.arange(0, 225, 25, dtype=np.uint8), (8, 1)))
    assert fingerprint(right) == 2**64 - 1
    assert fingerprint(right.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    top = Image.new("L", (90, 80))
    top.paste(right.resize((90, 10), Image.Resampling.NEAREST), (0, 0))
    assert fingerprint(top) == 0xFF << 56


def test_scaled_photos_look_as_published_also_with_others_beside_them():
    photos = [image.resize((1400, 1200), Image.Resampling.NEAREST) for image in published("dog6").values()]
    others = [concept("teapot", published("teapot").values())]
    more = Image.new("RGB", (64, 64))
    assert compared([concept("dog6", [more, *photos]), *others]) == "photos: 2 of 2 subjects look as published"


@pytest.mark.parametrize(("bits", "same"), [(0b111111, 1), (0b1111111, 0)])
def test_six_bits_may_differ(bits, same):
    photos = list(json.loads(KNOWN.read_text())["photos"]["dog6"].values())
    photos[2] = f"{int(photos[2], 16) ^ bits:016x}"
    said = compared([concept("dog6", map(drawn, photos))])
    assert said.startswith(f"photos: {same} of 1 subjects look as published")


def test_another_photo_is_named_and_so_is_a_subject_that_nobody_had():
    dog = published("dog6")
    dog["03.jpg"] = dog["03.jpg"].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    said = compared([concept("dog6", dog.values()), concept("vase", [Image.new("RGB", (64, 64))])])
    assert said == "photos: 0 of 1 subjects look as published; 1 cannot be verified (vase); dog6 differs in 03.jpg"


@pytest.mark.parametrize("name", json.loads(KNOWN.read_text())["photos"])
def test_known_subjects_are_subjects_with_several_photos(name):
    assert name in SUBJECTS
    assert len(set(json.loads(KNOWN.read_text())["photos"][name].values())) in (4, 5)
