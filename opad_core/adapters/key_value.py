"""What OPAD learns in a UNet: the key and value projections of its cross-attention layers (16 in SD 2.1).

They are taken out of the UNet, which receives the keys and values that they compute from the text.
"""

import torch
from torch import Tensor, nn

from opad_core.networks.denoiser import Denoiser, KeysValues


class KeyValueProjections(nn.Module):
    """to_k and to_v of every cross-attention layer: all that OPAD trains in a UNet (25.6 M weights in SD 2.1)."""

    def __init__(self, weights: KeysValues) -> None:
        super().__init__()
        self.layers = list(weights)
        self.to_k = nn.ParameterList(nn.Parameter(k.clone()) for k, _ in weights.values())
        self.to_v = nn.ParameterList(nn.Parameter(v.clone()) for _, v in weights.values())

    def forward(self, text_states: Tensor) -> KeysValues:
        """Text states [b, tokens, d] to keys and values of every layer.

        The first (BOS) token teaches the projections nothing: its keys and values are detached, as diffusers'
        Custom Diffusion processor does, which the authors used.
        """
        keys_values = {}
        for layer, to_k, to_v in zip(self.layers, self.to_k, self.to_v, strict=True):
            key, value = text_states @ to_k.T, text_states @ to_v.T
            keys_values[layer] = (_detach_first(key), _detach_first(value))
        return keys_values

    def tensors(self) -> dict[str, Tensor]:
        """Named as in the UNet's own state: `<layer>.to_k.weight`, [inner, d]."""
        named = {}
        for layer, to_k, to_v in zip(self.layers, self.to_k, self.to_v, strict=True):
            named[f"{layer}.to_k.weight"] = to_k.detach()
            named[f"{layer}.to_v.weight"] = to_v.detach()
        return named


def _detach_first(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1].detach(), x[:, 1:]], dim=1)


def projections_of(tensors: dict[str, Tensor]) -> KeyValueProjections:
    """The reverse of `KeyValueProjections.tensors`."""
    layers = [name.removesuffix(".to_k.weight") for name in tensors if name.endswith(".to_k.weight")]
    return KeyValueProjections({n: (tensors[f"{n}.to_k.weight"], tensors[f"{n}.to_v.weight"]) for n in layers})


def pretrained_projections(denoiser: Denoiser) -> KeyValueProjections:
    """Those of the UNet as a trainable copy, float32."""
    weights = {}
    for layer in denoiser.layers:
        attention = denoiser.unet.get_submodule(layer)
        weights[layer] = (attention.to_k.weight.detach().float(), attention.to_v.weight.detach().float())
    return KeyValueProjections(weights)
