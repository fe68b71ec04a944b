"""The adapter of DreamBooth (Ruiz et al. 2023): every weight of the UNet, and a fixed V*."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from opad_core.adapters.copies import replace_parameter, sharing_copy
from opad_core.errors import OpadError
from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.text_encoder import TextEncoder, Tokens

_PREFIX = "unet."


class UNetAdapter(nn.Module):
    """The weights of a UNet by their names in it, float32, and the token row of V*, [d]."""

    kind: ClassVar[str] = "unet"
    token_row: Tensor

    def __init__(self, weights: dict[str, Tensor], token_row: Tensor) -> None:
        super().__init__()
        self.names = list(weights)
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights.values())
        self.register_buffer("token_row", token_row)
        self._built: tuple[Denoiser, Denoiser] | None = None
        """A frozen denoiser, and its copy with our weights."""

    @classmethod
    def initial(cls, denoiser: Denoiser, token_row: Tensor) -> Self:
        weights = {name: x.detach().float().clone() for name, x in denoiser.unet.named_parameters()}
        return cls(weights, token_row.clone())

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        weights = {n.removeprefix(_PREFIX): x.float() for n, x in tensors.items() if n.startswith(_PREFIX)}
        if tensors.keys() - {"token_row"} != {_PREFIX + name for name in weights} or "token_row" not in tensors:
            raise OpadError("the bundle must hold one token row and the weights of a UNet; it holds other tensors")
        return cls(weights, tensors["token_row"].float())

    def tensors(self) -> dict[str, Tensor]:
        weights = {
            _PREFIX + name: weight.detach().half() for name, weight in zip(self.names, self.weights, strict=True)
        }
        return weights | {"token_row": self.token_row.float()}

    def expected_shapes(self, denoiser: Denoiser, text: TextEncoder) -> dict[str, torch.Size]:
        weights = {_PREFIX + name: weight.shape for name, weight in denoiser.unet.named_parameters()}
        return weights | {"token_row": text.row_shape}

    def denoiser(self, frozen: Denoiser) -> Denoiser:
        if self._built is None or self._built[0] is not frozen:
            own = frozen.with_unet(sharing_copy(frozen.unet))
            for name, weight in zip(self.names, self.weights, strict=True):
                replace_parameter(own.unet, name, weight)
            self._built = frozen, own
        return self._built[1]

    def token_states(self, text: TextEncoder, tokens: Tokens) -> Tensor:
        return text.encode_tokens(tokens, self.token_row[None])

    def keys_values(self, text_states: Tensor, denoiser: Denoiser) -> KeysValues:
        return denoiser.keys_values(text_states)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_built": None}  # a copy of the adapter builds its own network
