import numpy as np
import pytest
from PIL import Image

from opad_core.bases.loading import load_base
from tests.random_base import write_random_base


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return load_base(str(write_random_base(tmp_path_factory.mktemp("base"))), device="cpu")


@pytest.fixture(scope="session")
def references():
    """Four smooth images of different sizes, none of them square."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    return [Image.fromarray(p).resize((90 + 10 * i, 80), Image.Resampling.BICUBIC) for i, p in enumerate(pixels)]
