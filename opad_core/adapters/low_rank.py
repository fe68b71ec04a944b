"""The adapter of LoRA (Hu et al. 2021, section 4.1): low-rank updates of linear layers, and V*.

An update of a layer W [out, in] is up @ down, with up [out, r] and down [r, in]. The layers may belong to the UNet and
to the text encoder.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opad_core.adapters.copies import replace_module, sharing_copy
from opad_core.errors import OpadError
from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.text_encoder import TextEncoder, Tokens

UNET, TEXT = "unet.", "text."
"""Beginnings of the names of layers, by network."""
_UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def attention_layers(denoiser: Denoiser) -> list[str]:
    """Return the names of all linear layers of the UNet's attentions, self and cross."""
    return [UNET + name for name in _linear_layers(denoiser.unet, _UNET_LAYERS)]


def text_layers(text: TextEncoder) -> list[str]:
    """Return the names of all linear layers of the text encoder: of its attentions and its MLPs."""
    return [TEXT + name for name in _linear_layers(text.encoder, _TEXT_LAYERS)]


def _linear_layers(network: nn.Module, ends: tuple[str, ...]) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name.endswith(ends)]


class _Updated(nn.Module):
    """A frozen linear layer with an update. `weight` is the sum, for code that reads it."""

    def __init__(self, frozen: nn.Linear, down: nn.Parameter, up: nn.Parameter) -> None:
        super().__init__()
        self.frozen, self.down, self.up = frozen, down, up
        self.in_features, self.out_features = frozen.in_features, frozen.out_features

    @property
    def weight(self) -> Tensor:
        return self.frozen.weight.float() + self.up @ self.down

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(x.float(), self.down), self.up)
        whole: Tensor = self.frozen(x) + update.to(x.dtype)
        return whole


class LowRankAdapter(nn.Module):
    """The updates by layer, and the token row of V*, [d]."""

    kind: ClassVar[str] = "low_rank"

    def __init__(self, updates: dict[str, tuple[Tensor, Tensor]], token_row: nn.Parameter) -> None:
        """`updates` are the pairs (down, up) by the name of their layer."""
        super().__init__()
        self.layers = list(updates)
        self.down = nn.ParameterList(nn.Parameter(down) for down, _ in updates.values())
        self.up = nn.ParameterList(nn.Parameter(up) for _, up in updates.values())
        self.token_row = token_row
        self._unet: tuple[Denoiser, Denoiser] | None = None
        """A frozen denoiser, and its copy with our updates."""
        self._text: tuple[TextEncoder, TextEncoder] | None = None

    @classmethod
    def initial(
        cls, denoiser: Denoiser, text: TextEncoder, layers: Iterable[str], token_row: Tensor, *, rank: int,
        generator: torch.Generator,
    ) -> Self:  # fmt: skip
        """Return updates that are 0: down is normal with deviation 1/r as in diffusers, up is 0.

        `generator` is on the CPU.
        """
        updates = {}
        for layer in layers:
            linear = _linear(layer, denoiser, text)
            down = torch.randn(rank, linear.in_features, generator=generator) / rank
            updates[layer] = (down.to(token_row.device), token_row.new_zeros(linear.out_features, rank))
        return cls(updates, nn.Parameter(token_row.clone()))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        layers = [name.removesuffix(".down") for name in tensors if name.endswith(".down")]
        expected = {"token_row"} | {f"{layer}.{part}" for layer in layers for part in ("down", "up")}
        if tensors.keys() != expected or not all(layer.startswith((UNET, TEXT)) for layer in layers):
            raise OpadError("the bundle must hold one token row and pairs of down and up; it holds other tensors")
        updates = {layer: (tensors[f"{layer}.down"].float(), tensors[f"{layer}.up"].float()) for layer in layers}
        return cls(updates, nn.Parameter(tensors["token_row"].float()))

    def tensors(self) -> dict[str, Tensor]:
        tensors = {"token_row": self.token_row.detach().float()}
        for layer, down, up in zip(self.layers, self.down, self.up, strict=True):
            tensors |= {f"{layer}.down": down.detach().half(), f"{layer}.up": up.detach().half()}
        return tensors

    def expected_shapes(self, denoiser: Denoiser, text: TextEncoder) -> dict[str, torch.Size]:
        shapes = {"token_row": text.row_shape}
        for layer, down in zip(self.layers, self.down, strict=True):
            linear = _linear(layer, denoiser, text)
            shapes[f"{layer}.down"] = torch.Size((down.shape[0], linear.in_features))
            shapes[f"{layer}.up"] = torch.Size((linear.out_features, down.shape[0]))
        return shapes

    def denoiser(self, frozen: Denoiser) -> Denoiser:
        if not any(layer.startswith(UNET) for layer in self.layers):
            return frozen
        if self._unet is None or self._unet[0] is not frozen:
            own = frozen.with_unet(sharing_copy(frozen.unet))  # which freezes it, so the updates come afterwards
            self._update(own.unet, UNET)
            self._unet = frozen, own
        return self._unet[1]

    def token_states(self, text: TextEncoder, tokens: Tokens) -> Tensor:
        return self.text_encoder(text).encode_tokens(tokens, self.token_row[None])

    def text_encoder(self, frozen: TextEncoder) -> TextEncoder:
        """Return the text encoder with its updates; the frozen one if it has none."""
        if not any(layer.startswith(TEXT) for layer in self.layers):
            return frozen
        if self._text is None or self._text[0] is not frozen:
            encoder = sharing_copy(frozen.encoder)
            self._update(encoder, TEXT)
            self._text = frozen, dataclasses.replace(frozen, encoder=encoder)
        return self._text[1]

    def keys_values(self, text_states: Tensor, denoiser: Denoiser) -> KeysValues:
        return denoiser.keys_values(text_states)

    def _update(self, network: nn.Module, prefix: str) -> None:
        """Put the updates into a copy of a network, in place."""
        for layer, down, up in zip(self.layers, self.down, self.up, strict=True):
            if layer.startswith(prefix):
                name = layer.removeprefix(prefix)
                replace_module(network, name, _Updated(_linear_in(network, name), down, up))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unet": None, "_text": None}  # a copy of the adapter builds its own networks


def _linear(layer: str, denoiser: Denoiser, text: TextEncoder) -> nn.Linear:
    """Return the layer with this name. Raises OpadError if the networks have none."""
    if layer.startswith(UNET):
        return _linear_in(denoiser.unet, layer.removeprefix(UNET))
    return _linear_in(text.encoder, layer.removeprefix(TEXT))


def _linear_in(network: nn.Module, name: str) -> nn.Linear:
    try:
        linear = network.get_submodule(name)
    except AttributeError as error:
        raise OpadError(f"the base has no layer {name!r}, which the bundle updates") from error
    if not isinstance(linear, nn.Linear):
        raise OpadError(f"the base's layer {name!r}, which the bundle updates, is not linear")
    return linear
