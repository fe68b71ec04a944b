import torch

from opad_core.bases.loading import load_base
from opad_core.generation.generator import ImageRequest, OneStepGenerator


def convolutions(network):
    """Return the weights of a network's convolutions of more than one pixel, whose layout matters."""
    return [p for p in network.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[-1] > 1]


def test_every_network_of_a_training_gets_the_layout_and_computes_the_same(base):
    own = load_base(str(base.folder), device="cpu")
    own.use_channels_last()
    networks = (own.teacher.unet, own.student.unet, own.vae, *own.backbones)
    for network in networks:
        assert convolutions(network)
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions(network))
    assert not any(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions(base.student.unet))
    request = ImageRequest(None, "a dog", 1)
    expected, images = (OneStepGenerator(each).generate([request]).astype(int) for each in (base, own))
    assert abs(images - expected).max() <= 1  # sums in another order may round to the next level
