"""The interface of adapters: the parameters that learn a concept, whichever method trains them."""

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.text_encoder import TextEncoder, Tokens


class Adapter(Protocol):
    """The learned parameters, what the frozen networks receive from them, and how a bundle stores them.

    Implementations are `nn.Module`s: `KeyValueAdapter`, `TokenAdapter`, `ResidualAdapter`, `LowRankAdapter`,
    `UNetAdapter`. With the first three a concept enters a UNet only as keys and values, so one batch may mix concepts.
    """

    kind: ClassVar[str]
    """Names the class in a bundle."""

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """Reverse `tensors`. Raises OpadError for tensors of another kind of adapter."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what a bundle stores, float16 or float32, detached."""

    def expected_shapes(self, denoiser: Denoiser, text: TextEncoder) -> dict[str, torch.Size]:
        """Return the shapes that `tensors` must have for these networks."""

    def denoiser(self, frozen: Denoiser) -> Denoiser:
        """Return the UNet that generates the concept: the frozen one, or a copy with learned weights."""

    def token_states(self, text: TextEncoder, tokens: Tokens) -> Tensor:
        """Encode tokenized prompts that name the concept, [b, tokens, d], float32."""

    def keys_values(self, text_states: Tensor, denoiser: Denoiser) -> KeysValues:
        """Return the keys and values of every cross-attention layer. `denoiser` is what `self.denoiser` returned."""

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...
    def to(self, device: Any) -> Self: ...


def text_states_of(adapter: Adapter, text: TextEncoder, prompts: list[str], class_noun: str) -> Tensor:
    """Encode prompts that name the concept, [b, tokens, d], float32."""
    return adapter.token_states(text, text.tokens(prompts, [class_noun] * len(prompts)))
