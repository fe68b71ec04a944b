"""Three discriminators: a frozen feature network, a small trainable head (method of the paper, section 3.3)."""

import torch
from torch import nn

HEAD_WIDTH = 512


def discriminator_head(features: int, *, generator: torch.Generator) -> nn.Sequential:
    """Linear -> ReLU -> Linear to two logits (fake, real), drawn from `generator` by PyTorch's own default law."""
    head = nn.Sequential(nn.Linear(features, HEAD_WIDTH), nn.ReLU(), nn.Linear(HEAD_WIDTH, 2))
    for layer in (head[0], head[2]):
        assert isinstance(layer, nn.Linear)
        bound = layer.in_features**-0.5
        for parameter in (layer.weight, layer.bias):
            parameter.data = torch.empty_like(parameter, device="cpu").uniform_(-bound, bound, generator=generator)
    return head
