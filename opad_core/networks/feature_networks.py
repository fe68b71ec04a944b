"""Frozen pretrained networks that compute image features for the discriminators and the identity loss."""

from typing import Self

import torch
from torch import Tensor, nn

from opad_core.networks.checkpointing import checkpointed
from opad_core.networks.resampling import resize


class Backbone(nn.Module):
    """A frozen feature network with its preprocessing: pixels [b, 3, r, r] in [-1, 1] to pooled features [b, ...].

    Pixels and features are float32, and so is the preprocessing. The network computes in the dtype of its weights.
    Gradients flow to the pixels, never to the weights: `train()` and `requires_grad_()` do nothing.
    """

    def __init__(self, network: nn.Module, *, input_size: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network.eval()
        for parameter in self.network.parameters():
            parameter.requires_grad = False
        self.dtype = next(self.network.parameters()).dtype
        self.input_size = input_size
        self.is_checkpointed = False
        """Whether activations are computed again in the backward pass, so that one network keeps its own at a time."""
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Self:
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        return self

    def forward(self, x: Tensor, *, resize_mode: str, normalize: bool, size: int = 0) -> Tensor:
        """`resize_mode` as in `resize`; `normalize=False` feeds [-1, 1] unchanged, as the authors did.

        `size` in pixels replaces the network's input size, for networks that accept any (DINOv2).
        """
        prepared = self._prepared(x, size or self.input_size, resize_mode, normalize=normalize)
        prepared = prepared.to(self.dtype)
        features: Tensor = checkpointed(self.network, prepared) if self.is_checkpointed else self.network(prepared)
        return features.float()

    def embedding(self, x: Tensor) -> Tensor:
        """Return CLIP's image embedding [b, d] of the identity network, with the preprocessing that CLIP expects."""
        assert isinstance(self.network, IdentityTokens)
        prepared = self._prepared(x, self.input_size, "bicubic", normalize=True)
        embedding: Tensor = self.network.clip(pixel_values=prepared.to(self.dtype)).image_embeds
        return embedding.float()

    def _prepared(self, x: Tensor, size: int, resize_mode: str, *, normalize: bool) -> Tensor:
        x = resize(x, size, resize_mode)
        return (x * 0.5 + 0.5 - self.mean) / self.std if normalize else x


class ClassToken(nn.Module):
    """The final [CLS] state of a vision transformer, [b, d]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        state: Tensor = self.network(pixel_values=pixels).last_hidden_state[:, 0]
        return state


class IdentityTokens(nn.Module):
    """IP-Adapter's projection phi: CLIP image embedding -> Linear -> `tokens` x d -> LayerNorm, [b, tokens, d]."""

    def __init__(self, clip: nn.Module, projection: nn.Linear, norm: nn.LayerNorm, tokens: int) -> None:
        super().__init__()
        self.clip, self.projection, self.norm, self.tokens = clip, projection, norm, tokens

    def forward(self, pixels: Tensor) -> Tensor:
        embedding = self.clip(pixel_values=pixels).image_embeds
        identity: Tensor = self.norm(self.projection(embedding).unflatten(1, (self.tokens, -1)))
        return identity
