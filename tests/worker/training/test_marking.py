import numpy as np
import pytest
from PIL import Image

from api.read_marks import read_marks
from worker.training.marking import png_of


@pytest.mark.parametrize(("marks", "says"), [(None, True), ("signed", True), ("xmp", True), ("off", False)])
def test_a_trainer_marks_its_images_with_xmp_unless_marks_are_off(marks, says):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    found = read_marks(png_of(image, marks, model="nano"), trusted="")
    assert (found["credentials"], found["generated"]) == ("none", says)
    assert found["origin"] == ({"model": "nano"} if says else {})
