"""The adapter of OPAD and Custom Diffusion: key and value projections of cross-attention (16 layers in SD 2.1), and V*.

The adapter holds copies of the UNet's projections. It computes keys and values from the text, and the UNet takes them
as inputs.
"""

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from opad_core.errors import OpadError
from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.text_encoder import TextEncoder, Tokens


class KeyValueProjections(nn.Module):
    """to_k and to_v of every cross-attention layer: all that OPAD trains in a UNet (25.6 M weights in SD 2.1)."""

    def __init__(self, weights: KeysValues) -> None:
        super().__init__()
        self.layers = list(weights)
        self.to_k = nn.ParameterList(nn.Parameter(k.clone()) for k, _ in weights.values())
        self.to_v = nn.ParameterList(nn.Parameter(v.clone()) for _, v in weights.values())

    def forward(self, text_states: Tensor) -> KeysValues:
        """Return the keys and values of every layer for text states [b, tokens, d].

        Keys and values of the first (BOS) token are detached, as in diffusers' Custom Diffusion processor, which the
        authors used: this token does not train the projections.
        """
        keys_values = {}
        for layer, to_k, to_v in zip(self.layers, self.to_k, self.to_v, strict=True):
            key, value = text_states @ to_k.T, text_states @ to_v.T
            keys_values[layer] = (_detach_first(key), _detach_first(value))
        return keys_values

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights [inner, d], named as in the UNet's state: `<layer>.to_k.weight`."""
        named = {}
        for layer, to_k, to_v in zip(self.layers, self.to_k, self.to_v, strict=True):
            named[f"{layer}.to_k.weight"] = to_k.detach()
            named[f"{layer}.to_v.weight"] = to_v.detach()
        return named


class KeyValueAdapter(nn.Module):
    """The projections of one UNet and the token row of V*, [d]; two adapters may share one row."""

    kind: ClassVar[str] = "key_value"

    def __init__(self, projections: KeyValueProjections, token_row: nn.Parameter) -> None:
        super().__init__()
        self.projections = projections
        self.token_row = token_row

    @classmethod
    def initial(cls, denoiser: Denoiser, token_row: Tensor) -> Self:
        return cls(pretrained_projections(denoiser), nn.Parameter(token_row.clone()))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        layers = {name.rpartition(".to_")[0] for name in tensors if name != "token_row"}
        if set(tensors) != {"token_row"} | {f"{layer}.to_{x}.weight" for layer in layers for x in "kv"}:
            raise OpadError("the bundle must hold one token row and pairs of to_k and to_v; it holds other tensors")
        single = {name: tensor.float() for name, tensor in tensors.items()}
        row = nn.Parameter(single.pop("token_row"))
        return cls(projections_of(single), row)

    def tensors(self) -> dict[str, Tensor]:
        projections = {name: x.half() for name, x in self.projections.tensors().items()}
        return projections | {"token_row": self.token_row.detach().float()}

    def expected_shapes(self, denoiser: Denoiser, text: TextEncoder) -> dict[str, torch.Size]:
        shapes = {"token_row": text.row_shape}
        for layer in denoiser.layers:
            attention = denoiser.unet.get_submodule(layer)
            shapes |= {f"{layer}.to_k.weight": attention.to_k.weight.shape}
            shapes |= {f"{layer}.to_v.weight": attention.to_v.weight.shape}
        return shapes

    def denoiser(self, frozen: Denoiser) -> Denoiser:
        return frozen

    def token_states(self, text: TextEncoder, tokens: Tokens) -> Tensor:
        return text.encode_tokens(tokens, self.token_row[None])

    def keys_values(self, text_states: Tensor, denoiser: Denoiser) -> KeysValues:
        keys_values: KeysValues = self.projections(text_states)
        return keys_values


def _detach_first(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1].detach(), x[:, 1:]], dim=1)


def projections_of(tensors: dict[str, Tensor]) -> KeyValueProjections:
    """Reverse `KeyValueProjections.tensors`."""
    layers = [name.removesuffix(".to_k.weight") for name in tensors if name.endswith(".to_k.weight")]
    return KeyValueProjections({n: (tensors[f"{n}.to_k.weight"], tensors[f"{n}.to_v.weight"]) for n in layers})


def pretrained_projections(denoiser: Denoiser) -> KeyValueProjections:
    """Return a trainable float32 copy of the UNet's projections."""
    weights = {}
    for layer in denoiser.layers:
        attention = denoiser.unet.get_submodule(layer)
        weights[layer] = (attention.to_k.weight.detach().float(), attention.to_v.weight.detach().float())
    return KeyValueProjections(weights)
