"""A UNet with its noise schedule that takes the text as keys and values.

Text reaches a UNet only through cross-attention. Here the keys and values of every layer are inputs, so one frozen UNet
serves all concepts, mixed in one batch.
"""

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from opad_core.networks.schedule import T_MAX, first_latents, predict_x0

KeysValues = dict[str, tuple[Tensor, Tensor]]
"""Per cross-attention layer: keys and values, each [b, tokens, inner]."""


class _CrossAttention:
    """Cross-attention of one layer that takes its keys and values as input."""

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: KeysValues,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        query, key, value = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), *encoder_hidden_states[self.layer])
        )
        attended = F.scaled_dot_product_attention(query, key.to(query), value.to(query))
        projected: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return projected


class Denoiser:
    """A frozen UNet with its noise schedule. Text enters as keys and values."""

    def __init__(self, unet: UNet2DConditionModel, abar: Tensor, prediction_type: str) -> None:
        self.unet = unet.eval()
        for parameter in unet.parameters():
            parameter.requires_grad = False
        self.abar = abar
        self.prediction_type = prediction_type
        self.layers = [name.removesuffix(".processor") for name in unet.attn_processors if ".attn2." in name]
        unet.set_attn_processor(
            {
                name: _CrossAttention(name.removesuffix(".processor")) if ".attn2." in name else processor
                for name, processor in unet.attn_processors.items()
            }
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        return (self.unet.config.in_channels, size, size)

    def keys_values(self, text_states: Tensor) -> KeysValues:
        """Apply the pretrained projections to text states [b, tokens, d]; float32."""
        keys_values = {}
        for layer in self.layers:
            attention = self.unet.get_submodule(layer)
            key, value = (text_states @ to.weight.float().T for to in (attention.to_k, attention.to_v))
            keys_values[layer] = (key, value)
        return keys_values

    def predict(self, z_t: Tensor, t: Tensor, keys_values: KeysValues) -> Tensor:
        """Return the raw prediction (epsilon or v) for latents [b, 4, h, w] at integer timesteps [b]."""
        # The UNet passes this argument unchanged to each cross-attention.
        prediction: Tensor = self.unet(
            z_t.to(self.unet.dtype), t, encoder_hidden_states=keys_values, return_dict=False
        )[0]
        return prediction

    def denoise(self, z_t: Tensor, t: Tensor, keys_values: KeysValues) -> Tensor:
        """Predict x0 in one evaluation, float32."""
        return predict_x0(self.predict(z_t, t, keys_values), z_t, t, self.abar, self.prediction_type)

    def one_step(self, eps: Tensor, keys_values: KeysValues) -> Tensor:
        """Generate in one step: noise [b, 4, h, w] ~ N(0, 1) to clean latents, float32."""
        t = torch.full((eps.shape[0],), T_MAX, device=eps.device)
        return self.denoise(first_latents(eps, self.abar), t, keys_values)
