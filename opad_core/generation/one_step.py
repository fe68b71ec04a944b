"""The two functions that generate an image, with tensors of fixed shapes as inputs.

    OneStep     noise and packed keys and values -> latents
    Decode      latents -> an image of 8 bits per channel

Neither has Python values among its inputs, so they can be compiled, captured as CUDA graphs and exported to ONNX.
"""

import torch
from torch import Tensor, nn

from opad_core.bases.loading import decode
from opad_core.networks.denoiser import Denoiser, KeysValues
from opad_core.networks.schedule import T_MAX, predict_x0
from opad_core.pixels import quantized


class OneStep(nn.Module):
    """The student's one step from noise to latents. The embedding of its time is a constant."""

    time_embedding: Tensor
    abar: Tensor

    @torch.no_grad()
    def __init__(self, student: Denoiser) -> None:
        super().__init__()
        self.unet = student.unet
        self._student = student
        device = student.abar.device
        self.register_buffer("time_embedding", student.time_embedding(torch.full((1,), T_MAX, device=device)))
        self.register_buffer("abar", student.abar)
        self._widths = [student.unet.get_submodule(layer).to_k.out_features for layer in student.layers]

    def forward(self, eps: Tensor, packed: Tensor) -> Tensor:
        """Return latents [b, 4, h, w], float32, for noise [b, 4, h, w] ~ N(0, 1) and the rows of `pack`, [b, n]."""
        z_t = self._student.first_scale * eps
        prediction = self._student.predict_at(z_t, self.time_embedding, self.unpack(packed))
        return predict_x0(prediction, z_t, T_MAX, self.abar, self._student.prediction_type)

    def pack(self, keys_values: KeysValues) -> Tensor:
        """Return the keys and values of all layers in one row per image, [b, n], in the UNet's precision.

        A row of SD-Turbo in half precision has 3.84 MB.
        """
        layers = [x.flatten(1) for layer in self._student.layers for x in keys_values[layer]]
        return torch.cat(layers, dim=1).to(self.unet.dtype)

    def unpack(self, packed: Tensor) -> KeysValues:
        """Reverse `pack`. The keys and values are views."""
        tokens = packed.shape[1] // (2 * sum(self._widths))
        parts = packed.split([tokens * width for width in self._widths for _ in "kv"], dim=1)
        shaped = [part.unflatten(1, (tokens, -1)) for part in parts]
        return dict(zip(self._student.layers, zip(shaped[::2], shaped[1::2], strict=True), strict=True))


class Decode(nn.Module):
    """A decoder, from latents to an image."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        """Return images [b, r, r, 3] uint8 for scaled latents [b, 4, h, w], float32."""
        return quantized(decode(self.vae, z))
