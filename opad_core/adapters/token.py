"""The adapter of Textual Inversion (Gal et al. 2022): one learned word; the UNet keeps its own projections."""

from typing import ClassVar, Self

from torch import Tensor, nn

from opad_core.errors import OpadError
from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.text_encoder import TextEncoder


class TokenAdapter(nn.Module):
    """The token row of V*, [d]."""

    kind: ClassVar[str] = "token"

    def __init__(self, token_row: nn.Parameter) -> None:
        super().__init__()
        self.token_row = token_row

    @classmethod
    def initial(cls, denoiser: Denoiser, token_row: Tensor) -> Self:
        return cls(nn.Parameter(token_row.clone()))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        if set(tensors) != {"token_row"}:
            raise OpadError("the bundle must hold one token row; it holds other tensors")
        return cls(nn.Parameter(tensors["token_row"].float()))

    def tensors(self) -> dict[str, Tensor]:
        return {"token_row": self.token_row.detach().float()}

    def text_states(self, text: TextEncoder, prompts: list[str], class_noun: str) -> Tensor:
        return text.encode(prompts, [class_noun] * len(prompts), [self.token_row] * len(prompts))

    def keys_values(self, text_states: Tensor, denoiser: Denoiser) -> KeysValues:
        return denoiser.keys_values(text_states)
