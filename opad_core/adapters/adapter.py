"""The interface of adapters: the parameters that learn a concept, whichever method trains them."""

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.text_encoder import TextEncoder


class Adapter(Protocol):
    """The learned parameters, what the frozen networks receive from them, and how a bundle stores them.

    Implementations are `nn.Module`s: `KeyValueAdapter`, `TokenAdapter`. A concept enters a UNet only as keys and
    values, so one batch may mix adapters.
    """

    kind: ClassVar[str]
    """Names the class in a bundle."""

    @classmethod
    def initial(cls, denoiser: Denoiser, token_row: Tensor) -> Self:
        """Return an adapter that has learned nothing; `token_row` [d] is where V* starts."""

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """Reverse `tensors`. Raises OpadError for tensors of another kind of adapter."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what a bundle stores, float16 or float32, detached."""

    def text_states(self, text: TextEncoder, prompts: list[str], class_noun: str) -> Tensor:
        """Encode prompts that name the concept, [b, tokens, d], float32."""

    def keys_values(self, text_states: Tensor, denoiser: Denoiser) -> KeysValues:
        """Return the keys and values of every cross-attention layer of `denoiser`."""

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...
    def to(self, device: Any) -> Self: ...
