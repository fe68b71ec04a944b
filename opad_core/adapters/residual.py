"""The adapter of Cones 2 (Liu et al. 2023): what a concept adds to the text state of its class noun."""

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opad_core.errors import OpadError
from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.text_encoder import TextEncoder, Tokens


class ResidualAdapter(nn.Module):
    """The residual of each token of the class noun, [n, d]. There is no V*: the prompt names the noun alone."""

    kind: ClassVar[str] = "residual"

    def __init__(self, residual: nn.Parameter) -> None:
        super().__init__()
        self.residual = residual

    @classmethod
    def initial(cls, text: TextEncoder, class_noun: str) -> Self:
        """Return residuals that are 0."""
        count = len(text.tokenizer(class_noun, add_special_tokens=False).input_ids)
        return cls(nn.Parameter(torch.zeros(count, *text.row_shape, device=text.encoder.device)))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        if set(tensors) != {"residual"}:
            raise OpadError("the bundle must hold one residual; it holds other tensors")
        if tensors["residual"].dim() != 2 or not len(tensors["residual"]):
            raise OpadError(f"the bundle's residual must be [n, d] with n >= 1, is {list(tensors['residual'].shape)}")
        return cls(nn.Parameter(tensors["residual"].float()))

    def tensors(self) -> dict[str, Tensor]:
        return {"residual": self.residual.detach().float()}

    def expected_shapes(self, denoiser: Denoiser, text: TextEncoder) -> dict[str, torch.Size]:
        return {"residual": torch.Size((len(self.residual), *text.row_shape))}

    def denoiser(self, frozen: Denoiser) -> Denoiser:
        return frozen

    def token_states(self, text: TextEncoder, tokens: Tokens) -> Tensor:
        """Encode the prompts with the noun alone, and add the residuals at its tokens (Liu et al., section 3.2)."""
        states = plain_states(text, tokens)
        places = noun_places(tokens, len(self.residual)).to(states)
        return states + torch.einsum("bnt,nd->btd", places, self.residual)

    def keys_values(self, text_states: Tensor, denoiser: Denoiser) -> KeysValues:
        return denoiser.keys_values(text_states)


def plain_states(text: TextEncoder, tokens: Tokens) -> Tensor:
    """Encode prompts without V*, so that a concept is the noun alone, [b, tokens, d], float32."""
    ids = without_concept(tokens, padding=text.tokenizer.pad_token_id)
    nowhere = torch.zeros_like(tokens.is_concept)
    return text.encode_tokens(Tokens(ids, nowhere), torch.zeros(1, *text.row_shape, device=text.encoder.device))


def without_concept(tokens: Tokens, *, padding: int) -> Tensor:
    """Return ids [b, tokens] without those of V*; later ones move forward."""
    moved = F.pad(tokens.ids[:, 1:], (0, 1), value=padding)
    return torch.where(tokens.is_concept.cumsum(1) > 0, moved, tokens.ids)


def noun_places(tokens: Tokens, count: int) -> Tensor:
    """Return where the `count` tokens of the noun stand without V*: [b, count, tokens], 1 there, else 0.

    The noun takes the place of V*. Tokens beyond the encoder's length, and prompts without a concept, have no place.
    """
    place = tokens.is_concept.float()
    return torch.stack([F.pad(place, (i, 0))[:, : place.shape[1]] for i in range(count)], 1)
