"""The adapter of Textual Inversion (Gal et al. 2022): one learned word; the UNet keeps its own projections."""

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from opad_core.errors import OpadError
from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.text_encoder import TextEncoder, Tokens


class TokenAdapter(nn.Module):
    """The token row of V*, [d]."""

    kind: ClassVar[str] = "token"

    def __init__(self, token_row: nn.Parameter) -> None:
        super().__init__()
        self.token_row = token_row

    @classmethod
    def initial(cls, token_row: Tensor) -> Self:
        return cls(nn.Parameter(token_row.clone()))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        if set(tensors) != {"token_row"}:
            raise OpadError("the bundle must hold one token row; it holds other tensors")
        return cls(nn.Parameter(tensors["token_row"].float()))

    def tensors(self) -> dict[str, Tensor]:
        return {"token_row": self.token_row.detach().float()}

    def expected_shapes(self, denoiser: Denoiser, text: TextEncoder) -> dict[str, torch.Size]:
        return {"token_row": text.row_shape}

    def denoiser(self, frozen: Denoiser) -> Denoiser:
        return frozen

    def token_states(self, text: TextEncoder, tokens: Tokens) -> Tensor:
        return text.encode_tokens(tokens, self.token_row[None])

    def keys_values(self, text_states: Tensor, denoiser: Denoiser) -> KeysValues:
        return denoiser.keys_values(text_states)
