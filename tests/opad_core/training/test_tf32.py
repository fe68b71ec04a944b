import pytest
import torch

from opad_core.bases.loading import SHIPPED, Base
from opad_core.bases.manifest import read_manifest
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.train import train
from opad_core.training.tf32 import tf32_products


def base_on(device, dtype):
    """Return a base that loads no network, so it needs no GPU."""
    return Base(SHIPPED, read_manifest(SHIPPED), torch.device(device), dtype)


def test_products_are_tf32_only_while_half_precision_learns_on_cuda():
    with tf32_products(base_on("cuda", torch.float16)):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("device", "dtype"), [("cuda", torch.float32), ("cpu", torch.float16)])
def test_products_stay_float32_in_float32_and_on_a_cpu(device, dtype):
    with tf32_products(base_on(device, dtype)):
        assert torch.get_float32_matmul_precision() == "highest"


def test_the_setting_is_restored_after_an_error():
    with pytest.raises(ZeroDivisionError), tf32_products(base_on("cuda", torch.float16)):
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == "highest"


class Reading(Exception):
    """The training read its references."""


class References(list):
    """Says how matrix products are computed when they are read."""

    def __getitem__(self, index):
        raise Reading(torch.get_float32_matmul_precision())


def test_a_training_learns_with_tf32_products():
    with pytest.raises(Reading, match="high"):
        train(base_on("cuda", torch.float16), References(), "dog", OpadConfig(), seed=0,
              report=lambda progress: None, should_stop=lambda: False)  # fmt: skip
