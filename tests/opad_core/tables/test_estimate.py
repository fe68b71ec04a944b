import re
import tempfile
from pathlib import Path

import pytest
import torch

from opad_core.bases.full_size import FullSizeBase
from opad_core.tables.estimate import gpu_hours, image_tflop, method_tflop
from opad_core.tables.rows import ROWS, UNTOUCHED, config_of


@pytest.fixture(scope="module")
def manifest():
    with tempfile.TemporaryDirectory() as folder:
        return FullSizeBase(Path(folder), torch.device("meta")).manifest


def test_images_are_counted_by_step():
    # 1, 4 and 25 steps of 0.68, and each time the decoder's 2.48
    assert image_tflop(UNTOUCHED) == pytest.approx(30 * 0.68 + 3 * 2.48)
    # the teacher takes 25 steps of twice 0.68, once for the prompt and once for the empty one
    assert image_tflop(ROWS["teacher-first"]) == pytest.approx(0.68 + 2.48 + 25 * 1.36 + 2.48)


def test_hours_are_operations_by_measured_seconds(manifest):
    said = gpu_hours(manifest, [(UNTOUCHED, 100)] * 360)
    # 27.84 TFLOP an image: 1002 PFLOP in all, at 10.7 and 25.6 ms a TFLOP 2.98 and 7.13 hours
    assert said.startswith("about 3.0 to 7.1 hours of an H100: 0.0 PFLOP to learn and 1002.2 to generate, at 10.7 to")


def test_learning_is_counted_in_iterations_of_the_method(manifest):
    said = gpu_hours(manifest, [(ROWS["textual_inversion"], 0)] * 3)
    found = float(re.search(r"H100: ([\d.]+) PFLOP to learn and 0.0 to generate", said)[1])
    iterations = config_of(ROWS["textual_inversion"], manifest).total_iterations
    assert found == pytest.approx(3 * iterations * method_tflop("textual_inversion") / 1e3, abs=0.05)  # rounded


def test_class_images_double_the_batch():
    """DreamBooth and Textual Inversion run the same networks. DreamBooth has class images and trains the whole UNet."""
    with_classes, without = (method_tflop(name, resolution=64) for name in ("dreambooth", "textual_inversion"))
    assert without < with_classes < 4 * without, "half of it would be less: DreamBooth adds no token"
